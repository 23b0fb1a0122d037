"""What a save costs the training loop, and what goes on behind it.

    python -m benchmarks.checkpoints [--config=voc --machine.root=PATH ...]

The loop waits for the copy to the host and the digests; the writing goes on in the background.
"""

import sys
import tempfile
import time
from pathlib import Path

import jax

from deeplab_jax.config import parse
from deeplab_jax.models.build import init_variables
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training.checkpoint import Checkpoints, as_tree, digests
from deeplab_jax.training.state import fresh_state

ROUNDS = 5


def main() -> None:
    config = parse(sys.argv[1:], "scenes")
    mesh = device_mesh()
    variables = jax.jit(init_variables, static_argnums=0)(config.model, jax.random.key(0))
    state = fresh_state(config, variables, mesh)
    megabytes = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    times: dict[str, list[float]] = {"digests": [], "the loop waits": [], "until on disk": []}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), {}) as checkpoints:
        for step in range(1, ROUNDS + 2):
            start = time.perf_counter()
            digests(as_tree(state))
            hashed = time.perf_counter()
            checkpoints.save(step, state)
            waited = time.perf_counter()
            checkpoints.wait()
            ends = (hashed - start, waited - hashed, time.perf_counter() - hashed)
            if step > 1:  # the first one starts threads
                for name, seconds in zip(times, ends, strict=True):
                    times[name].append(seconds)
        start = time.perf_counter()
        checkpoints.restore_newest(state)
        restored = time.perf_counter() - start
    print(f"state of {config.model.backbone}: {megabytes:.0f} MB; medians of {ROUNDS}")
    for name, seconds in times.items():
        print(f"  {name:15s} {sorted(seconds)[ROUNDS // 2]:.2f} s")
    print(f"  {'restored':15s} {restored:.2f} s, verified")


if __name__ == "__main__":
    main()
