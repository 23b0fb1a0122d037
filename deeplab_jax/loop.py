"""`fit`: the one place of training that has side effects."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from deeplab_jax.checkpoint import Checkpoints
from deeplab_jax.config import Config, flatten, load_json, save_json, to_dict
from deeplab_jax.data.pipeline import open_split, train_batches
from deeplab_jax.data.sources import Source, check_source
from deeplab_jax.errors import UserError
from deeplab_jax.evaluate import Evaluation, Evaluator, drawn, summary, write_evaluation
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.models.build import init_variables
from deeplab_jax.models.mobilenet import LAST_CONV
from deeplab_jax.progress import Ticker
from deeplab_jax.report import read_metrics, write_report
from deeplab_jax.sharding import check_batch_size, data_mesh, place_batch, replicated
from deeplab_jax.state import TrainState
from deeplab_jax.step import compile_train_step, fresh_state
from deeplab_jax.weights.batch_norm import reestimate_batch_norm
from deeplab_jax.weights.files import Weights, load_weights, save_weights

BATCH_NORM_BATCHES = 8  # of training pictures, to re-estimate folded BatchNorm


def fit(config: Config) -> TrainState:
    """Train, evaluate and keep what matters in `config.workdir`; run again to resume.

    Raises:
      UserError: for anything wrong with the configuration or the data, before the first step.
    """
    workdir, mesh = Path(config.workdir), data_mesh()
    check_batch_size("train.batch_size", config.train.batch_size, mesh)
    train_source, eval_source = open_sources(config)
    evaluator = Evaluator(config, eval_source, mesh)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.newest_step() is not None:
        check_same_experiment(workdir / "config.json", config)
    state = start(config, train_source, checkpoints, mesh)
    save_json(config, workdir / "config.json")
    first, steps = int(state.step), config.train.steps
    train_step = compile_train_step(config, state.params, mesh, train_source.ignore_label)
    batches = train_batches(
        train_source,
        config.data,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_step=first,
        host=jax.process_index(),
        hosts=jax.process_count(),
        fill=mean_pixel(config.model.backbone),
    )
    with Log(workdir / "metrics.jsonl", first, config) as log, Ticker("train", steps, first) as bar:
        for step in range(first + 1, steps + 1):
            with log.waiting():
                batch = next(batches)
            state, metrics = train_step(state, place_batch(batch, mesh))
            bar.tick(step, log.train(step, metrics))
            if step % config.train.eval_every == 0 or step == steps:
                log.flush()
                result = evaluator(state.variables)
                log.evaluation(step, result, eval_source)
                keep_best(workdir, config, state, result, eval_source)
            if step % config.train.checkpoint_every == 0 or step == steps:
                log.flush()
                checkpoints.save(step, state)
    checkpoints.close()
    finish(workdir, evaluator, mesh)
    return state


def open_sources(config: Config) -> tuple[Source, Source]:
    """Both splits, with a sample of each decoded and checked."""
    data = config.data
    splits = (data.train_split, data.eval_split)
    sources = [open_split(data, split, config.model) for split in splits]
    for source in sources:
        check_source(source)
    return sources[0], sources[1]


def check_same_experiment(file: Path, config: Config) -> None:
    """Raise UserError if the checkpoints beside config.json are of another configuration."""
    old, new = flatten(to_dict(load_json(file))), flatten(to_dict(config))
    free = ["workdir", "data.workers", "data.root", "data.prepared_dir"]
    free += ["eval.pictures", "eval.trimap_widths", "eval.boundary"]
    changed = [k for k in new if old.get(k) != new[k] and k not in free]
    if changed:
        lines = [f"  {k}: there {old.get(k)!r}, now {new[k]!r}" for k in changed]
        raise UserError(
            "\n".join([f"{file.parent} holds a run with another configuration:", *lines])
            + "\nResume it with the same configuration, or choose another --workdir"
        )


def start(config: Config, source: Source, checkpoints: Checkpoints, mesh: Mesh) -> TrainState:
    """The newest checkpoint's state, or a fresh one, replicated over the mesh."""
    newest = checkpoints.newest_step()
    state = fresh_state(config, initial_variables(config, source, fresh=newest is None), mesh)
    if newest is None:
        return state
    print(f"resuming {config.workdir} from step {newest}", file=sys.stderr)
    return checkpoints.restore(newest, state, replicated(mesh))


def initial_variables(config: Config, source: Source, *, fresh: bool) -> Any:
    """Random variables, overlaid with the pretrained ones where asked for."""
    key = jax.random.key(config.train.seed)
    variables = jax.jit(init_variables, static_argnums=0)(config.model, key)
    if not config.pretrained or not fresh:
        return variables
    variables = overlay(variables, load_weights(config.pretrained, complete=False), config)
    if config.reestimate_batch_norm:
        batches = train_batches(
            source,
            config.data,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            fill=mean_pixel(config.model.backbone),
        )
        images = (next(batches)["image"] for _ in range(BATCH_NORM_BATCHES))
        variables = reestimate_batch_norm(variables, build_model(config.model), images)
    return variables


def overlay(variables: Any, pretrained: Weights, config: Config) -> Any:
    """`variables` with every pretrained module put in place.

    A module that the pretrained network lacks (a decoder, say) keeps its random start, as does the
    last layer of a segmentation model that starts from a classifier; one of another shape is
    refused. MobileNetV2's 1280-channel layer is dropped where this network has none.
    """
    out: dict[str, Any] = {}
    taken = [m for m in variables["params"] if m in pretrained.variables["params"]]
    classifiers = [c.model.head == "classifier" for c in (pretrained.config, config)]
    if not config.pretrained_logits or any(classifiers) != all(classifiers):
        taken = [m for m in taken if m != "logits"]
    for collection, modules in variables.items():
        out[collection] = dict(modules)
        for name in taken:
            if name in modules:
                theirs = pretrained.variables[collection][name]
                if name == "backbone" and LAST_CONV not in modules[name]:
                    theirs = {k: v for k, v in theirs.items() if k != LAST_CONV}
                check_shapes(f"{collection}/{name}", modules[name], theirs, config.pretrained)
                out[collection][name] = theirs
    left = [m for m in pretrained.variables["params"] if m not in taken]
    note = f"; left out: {', '.join(left)}" if left else ""
    print(f"from {config.pretrained}: {', '.join(taken)}{note}", file=sys.stderr)
    return out


def check_shapes(name: str, ours: Any, theirs: Any, origin: str) -> None:
    mine, others = jax.tree.map(jnp.shape, ours), jax.tree.map(jnp.shape, theirs)
    if mine == others:
        return
    hint = (
        "another number of classes? add --pretrained_logits=False to start the last layer afresh"
        if name.endswith("logits")
        else "the network's settings (backbone, width, aspp) must be those of the weights"
    )
    raise UserError(f"pretrained = {origin!r}: {name} has other shapes than this model; {hint}")


def event_writer(folder: Path, first_step: int) -> Any:
    """Where TensorBoard's scalars and pictures go; None where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step + 1)


class Log:
    """metrics.jsonl: one JSON object a line; TensorBoard's events beside it (`event_writer`).

    Lines after `first_step` are of a lost stretch: removed. A step is logged after the next one was
    dispatched, so that the device never waits for the host.
    """

    def __init__(self, file: Path, first_step: int, config: Config) -> None:
        rows = read_metrics(file) if file.exists() else []
        kept = [json.dumps(r) + "\n" for r in rows if r["step"] <= first_step]
        file.write_text("".join(kept))
        self._file: TextIO = file.open("a")
        self._events = event_writer(file.parent / "tensorboard", first_step)
        self._config = config
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._last = (first_step, time.monotonic())
        self._waited = 0.0
        self._note = ""

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._events:
            self._events.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data: its share of the time is logged."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def train(self, step: int, metrics: dict[str, Any]) -> str:
        """Remember this step, write the one before; returns a note for the progress line."""
        note = self.flush()
        if step % self._config.train.log_every == 0:
            self._pending = (step, metrics)
        return note

    def flush(self) -> str:
        """Write the remembered step."""
        if self._pending is None:
            return self._note
        step, metrics = self._pending
        self._pending = None
        values = {k: float(v) for k, v in metrics.items()}
        now = time.monotonic()
        seconds = now - self._last[1]
        rate = (step - self._last[0]) * self._config.train.batch_size / seconds
        wait = self._waited / seconds
        self._last, self._waited = (step, now), 0.0
        self._write(
            {
                "step": step,
                **values,
                "images_per_second": round(rate, 3),
                "data_wait": round(wait, 3),
            }
        )
        self._note = f"loss {values['loss']:.3f}, {rate:.1f} images/s, {wait:.0%} waiting for data"
        return self._note

    def evaluation(self, step: int, result: Evaluation, source: Source) -> None:
        """Write and print an evaluation."""
        self._write({"step": step, **summary(result)})
        if self._events and result.predictions:
            sheet = np.asarray(drawn(result, source))
            self._events.add_image("eval/pictures", sheet, step, dataformats="HWC")
        print(f"step {step}: {result.headline} ({result.seconds:.0f} s)", file=sys.stderr)
        self._last, self._waited = (step, time.monotonic()), 0.0  # the rate leaves this out

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events:
            for name in [n for n in row if n != "step"]:
                self._events.add_scalar(name, row[name], row["step"])


def keep_best(
    workdir: Path, config: Config, state: TrainState, result: Evaluation, source: Source
) -> None:
    """Write the weights to `best` when no earlier evaluation was better."""
    best = workdir / "best"
    rows = read_metrics(workdir / "metrics.jsonl")
    score = "eval/pixel_accuracy" if result.one_label else "eval/miou"
    highest = max(row[score] for row in rows if score in row)
    if summary(result)[score] >= highest or not best.exists():
        variables = jax.device_get(state.variables)
        save_weights(best, Weights(config, variables, source.class_names, source.colors))


def finish(workdir: Path, evaluator: Evaluator, mesh: Mesh) -> None:
    """Evaluate the best weights again; leave tables, pictures and a report in the run's folder."""
    best = load_weights(workdir / "best")
    result = evaluator(jax.device_put(best.variables, replicated(mesh)))
    table = write_evaluation(result, evaluator.source, workdir / "evaluation")
    print(table)
    print(f"\n{result.headline}; best weights: {workdir / 'best'}", end="; ")
    print(f"report: {write_report(workdir)}")
