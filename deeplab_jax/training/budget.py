"""How many steps fit into a time, by the measure of a few of them: `train.time`."""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from deeplab_jax.config import Config, load_json
from deeplab_jax.config.recipe import to_seconds
from deeplab_jax.data.batches import for_device, train_batches
from deeplab_jax.data.settle import Choice, Choices, with_choices
from deeplab_jax.data.source import Source
from deeplab_jax.errors import UserError
from deeplab_jax.inference.evaluate import Evaluator
from deeplab_jax.parallel.mesh import host_share, place_batch
from deeplab_jax.parallel.processes import writes
from deeplab_jax.progress import duration
from deeplab_jax.training.resume import recipe
from deeplab_jax.training.state import TrainState, abstract_state
from deeplab_jax.training.step import compile_train_step

MOST_STEPS, MOST_SHARE = 20, 0.03  # that are measured, of the time; at least two steps


def choose_by_time(config: Config, source: Source, eval_source: Source, mesh: Mesh) -> Choices:
    """The steps that fit into `train.time`; of a run that has begun, those that it chose then.

    Raises:
      UserError: not one fits.
    """
    asked = config.train.time
    if not asked:
        return {}
    if begun := steps_as_begun(config):
        return begun
    if writes():
        print(f"measuring some steps, to know how many fit into {asked}", file=sys.stderr)
    start = time.monotonic()
    compiling, step = measure_steps(config, source, mesh)
    evaluation = measure_evaluation(config, eval_source, mesh)
    # What is left after this, after compiling for that many steps and two evaluations at the end.
    left = to_seconds(asked) - (time.monotonic() - start) - compiling - 2 * evaluation
    steps = int(left / (step + evaluation / config.machine.eval_every))
    if jax.process_count() > 1:
        steps = int(multihost_utils.broadcast_one_to_all(jnp.int32(steps)))
    took = (
        f"{step:.3g} s a step, {evaluation:.3g} s an evaluation, {duration(compiling)} to compile"
    )
    if steps < 1:
        raise UserError(f"train.time = {asked} is too short for a step: {took}")
    return {"train.steps": Choice(steps, f"{asked}: {took}")}


def steps_as_begun(config: Config) -> Choices:
    """The steps of the run in this folder, where it has this recipe, a checkpoint or not."""
    file = Path(config.machine.workdir) / "config.json"
    if not file.is_file():
        return {}
    begun = load_json(file)
    chosen: Choices = {"train.steps": Choice(begun.train.steps, "as this run began")}
    return chosen if recipe(with_choices(config, chosen)) == recipe(begun) else {}


def measure_steps(config: Config, source: Source, mesh: Mesh) -> tuple[float, float]:
    """Seconds of the first step, which compiles, and of a later one with its data."""
    state, (host, hosts) = some_state(config, mesh), host_share(mesh)
    train_step = compile_train_step(config, state, mesh, source.ignore_label)
    batches = train_batches(source, config, host=host, hosts=hosts)
    start = time.monotonic()
    state, metrics = train_step(state, place_batch(for_device(next(batches)), mesh))
    jax.block_until_ready(metrics)
    first, done, most = time.monotonic(), 0, MOST_SHARE * to_seconds(config.train.time)
    # All of several processes take as many.
    fixed = jax.process_count() > 1
    while done < 2 or (done < MOST_STEPS and (fixed or time.monotonic() - first < most)):
        before = metrics  # as training does: waited for when the next step is on its way
        state, metrics = train_step(state, place_batch(for_device(next(batches)), mesh))
        jax.block_until_ready(before)
        done += 1
    jax.block_until_ready(metrics)
    batches.close()
    return first - start, (time.monotonic() - first) / done


def measure_evaluation(config: Config, source: Source, mesh: Mesh) -> float:
    """Seconds of an evaluation, by a few of its batches."""
    evaluator, variables = Evaluator(config, source, mesh), some_state(config, mesh).averaged
    evaluator.compile(variables)
    return evaluator.estimate_seconds(variables)


def some_state(config: Config, mesh: Mesh) -> TrainState:
    """A state of random numbers, without compiling what makes a good one.

    Not of zeros, with which a GPU draws less power and is faster.
    """
    rng = np.random.default_rng(0)
    shapes = abstract_state(config, mesh)
    return jax.tree.map(
        lambda x: jax.device_put((0.1 * rng.random(x.shape)).astype(x.dtype), x.sharding), shapes
    )
