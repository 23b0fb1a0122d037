"""`fit`: the one place of training that has side effects."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from deeplab_jax.config import COMPARED, Config, flatten, save_json, to_dict
from deeplab_jax.config.formats import present
from deeplab_jax.data.batches import BadRecords, Batches, for_device, train_batches
from deeplab_jax.data.checks import warn_of_samples
from deeplab_jax.data.classes import other_names
from deeplab_jax.data.settle import open_split, settle
from deeplab_jax.data.source import Source
from deeplab_jax.data.workers import ReaderFailed
from deeplab_jax.errors import UserError
from deeplab_jax.files import Locked, json_text, locked, writable_folder
from deeplab_jax.inference.evaluate import (
    Evaluation,
    Evaluator,
    protocol,
    summary,
    write_evaluation,
)
from deeplab_jax.models import build_model, mean_pixel
from deeplab_jax.models.build import init_variables
from deeplab_jax.models.mobilenet import LAST_CONV
from deeplab_jax.parallel.mesh import (
    check_batch_size,
    device_mesh,
    host_share,
    on_host,
    place,
    place_batch,
    replicated,
)
from deeplab_jax.parallel.processes import wait_for_all, writes
from deeplab_jax.progress import Ticker
from deeplab_jax.reporting.metrics_file import read_metrics
from deeplab_jax.reporting.report import write_report
from deeplab_jax.training.checkpoint import About, Checkpoints
from deeplab_jax.training.interruption import Interrupted, Interruption
from deeplab_jax.training.log import Log, NumbersGoneBad
from deeplab_jax.training.state import TrainState
from deeplab_jax.training.step import abstract_state, compile_train_step, fresh_state
from deeplab_jax.weights.batch_norm import reestimate_batch_norm
from deeplab_jax.weights.files import Weights, load_weights, missing_files, read_note, save_weights

BATCH_NORM_BATCHES = 8  # of training images, to re-estimate folded BatchNorm
# For hundreds of initialisers, run once: a third of the time that a CPU's compiler takes otherwise.
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ROLLBACKS = 3  # in one go: data that is bad everywhere is not to be passed over for ever


def fit(config: Config) -> TrainState:
    """Train, evaluate and keep what matters in `config.machine.workdir`; run again to resume.

    Raises:
      UserError: for anything wrong with the configuration or the data, before the first step; for
        a folder in which another process trains; and for what makes going on senseless.
      Interrupted: by a signal or a preemption notice, after saving.
      ReaderFailed: the data can no longer be read, after saving.
    """
    with alone_in(Path(config.machine.workdir)) if writes() else nullcontext():
        return fit_alone(config)


@contextmanager
def alone_in(workdir: Path) -> Iterator[None]:
    """The folder can be written to, and no other process trains there meanwhile."""
    writable_folder(workdir, "workdir")
    try:
        with locked(workdir / "lock", wait=False):
            yield
    except Locked as error:
        raise UserError(
            f"workdir = {workdir}: {error} trains there. Wait for its end, or choose another"
            " --workdir"
        ) from error


def fit_alone(config: Config) -> TrainState:
    """`fit`, where nobody else trains."""
    workdir, mesh = Path(config.machine.workdir), device_mesh(config.mesh.shape)
    check_batch_size("train.batch_size", config.train.batch_size, mesh, config.train.accumulate)
    config, train_source, eval_source = open_sources(config)
    described = experiment(config, train_source, eval_source)
    keep_every = config.machine.keep_every
    with (
        Interruption(config.machine.hang_seconds) as interruption,
        Checkpoints(workdir / "checkpoints", described, keep_every=keep_every) as checkpoints,
    ):
        run = Run(
            config,
            train_source,
            Evaluator(config, eval_source, mesh, interruption.check),
            checkpoints,
            interruption,
        )
        state = train_over_bad_data(run)
        if not checkpoints.wait():
            raise UserError(f"{workdir}: the last checkpoint is not on disk; see the warning above")
        finish(run)
    return state


class Run(NamedTuple):
    """What stays the same while a run trains."""

    config: Config
    source: Source
    evaluator: Evaluator
    checkpoints: Checkpoints
    interruption: Interruption

    @property
    def workdir(self) -> Path:
        return Path(self.config.machine.workdir)

    @property
    def mesh(self) -> Mesh:
        return self.evaluator.mesh


def train_over_bad_data(run: Run) -> TrainState:
    """`train`; where the configuration says so, over data on which the numbers go bad.

    It goes back to the last checkpoint, and from there on with the data that came after.
    """
    state, rollbacks = start(run), 0
    while True:
        offset = int(state.data_offset)
        try:
            return train(run, state)
        except NumbersGoneBad as bad:
            if not run.config.machine.rollback or rollbacks == ROLLBACKS:
                raise
            print(f"warning: {bad}\nGoing back and passing over these images", file=sys.stderr)
            rollbacks += 1
            state = go_back(run, next_batch=bad.step + offset)


def go_back(run: Run, next_batch: int) -> TrainState:
    """The last checkpoint's state, to go on with the batch at the position `next_batch`."""
    state = start(run)
    offset = jax.device_put(jnp.int32(next_batch - int(state.step)), replicated(run.mesh))
    return dataclasses.replace(state, data_offset=offset)


def train(run: Run, state: TrainState) -> TrainState:
    """Every step from the state's to the last."""
    config, interruption = run.config, run.interruption
    first, steps = int(state.step), config.train.steps
    train_step = compile_train_step(config, state, run.mesh, run.source.ignore_label)
    bad_records = BadRecords(run.source, config.machine.max_bad_records)
    log_file = run.workdir / "metrics.jsonl"
    with (
        closing(batches_from(run, first + int(state.data_offset))) as batches,
        Log(log_file, first, config, run.source) as log,
        Ticker("train", steps, first) as bar,
    ):
        run.evaluator.compile(state.averaged)  # now, when an interruption costs nothing
        score_best_anew(run)
        evaluate_when_due(run, log, first, state)  # a run that was interrupted while evaluating
        for step in range(first + 1, steps + 1):
            with saving_what_there_is(run, log, step - 1, state), log.waiting():
                batch = next(batches)
                bad_records.note(batch)
            state, metrics = train_step(state, place_batch(for_device(batch), run.mesh))
            interruption.nothing_to_save = False
            bar.tick(step, log.train(step, metrics, batch["record"]))
            with saving_what_there_is(run, log, step, state):
                evaluate_when_due(run, log, step, state)
            leaving = interruption.reached(step)
            if step % config.machine.checkpoint_every == 0 or step == steps or leaving:
                log.flush()
                if leaving or not log.skipping:  # else there would be no good one to go back to
                    run.checkpoints.save(step, state)
            run.checkpoints.poll()
            if leaving:
                run.checkpoints.wait()
                raise Interrupted
    return state


@contextmanager
def saving_what_there_is(run: Run, log: Log, step: int, state: TrainState) -> Iterator[None]:
    """Around what reads data: where that fails, the steps that are done are not lost.

    Of several processes the others know nothing of it and would not save along.

    Raises:
      Interrupted: it failed, and this process was asked to leave.
    """
    try:
        yield
    except NumbersGoneBad:  # of a step that is no good
        raise
    except (ReaderFailed, UserError) as error:
        if not run.interruption.nothing_to_save and jax.process_count() == 1:
            log.flush()
            run.checkpoints.save(step, state)
            if run.checkpoints.wait():
                print(f"saved step {step}: the data cannot be read on", file=sys.stderr)
        if run.interruption.received:
            raise Interrupted from error
        raise


def evaluate_when_due(run: Run, log: Log, step: int, state: TrainState) -> None:
    """Evaluate after every so many steps and after the last, but no step twice.

    Unless the best weights are gone, without which a finished run could not end again.
    """
    every = run.config.machine.eval_every
    if step == 0 or (step % every and step != run.config.train.steps):
        return
    best = run.workdir / "best"
    lost = missing_files(best)
    if log.evaluated(step):
        if not lost:
            return
        print(
            f"{best} lacks {', '.join(lost)}: the weights of step {step} take its place",
            file=sys.stderr,
        )
    log.flush()
    with suppress(Interrupted):  # the loop saves, then leaves; this is made up for on resuming
        result = run.evaluator(state.averaged)
        # The weights first: a run killed between the two evaluates again.
        keep_best(run, step, state, result)
        if not log.evaluated(step):
            log.evaluation(step, result, run.evaluator.source)


def open_sources(config: Config) -> tuple[Config, Source, Source]:
    """The settled configuration and both splits, with a sample of each decoded and checked."""
    sources = {s: open_split(config, s) for s in (config.data.train_split, config.data.eval_split)}
    warn_of_samples(sources, config)
    train_source = sources[config.data.train_split]
    return settle(config, train_source), train_source, sources[config.data.eval_split]


def experiment(config: Config, train_source: Source, eval_source: Source) -> About:
    """What a checkpoint says it belongs to: what a resume compares, and the data."""
    data = {"data set": train_source.fingerprint, "evaluation set": eval_source.fingerprint}
    return flatten(recipe(config)) | data


def recipe(config: Config) -> dict[str, Any]:
    """The sections of a configuration that a resumed run must find again."""
    values = to_dict(config)
    return {section: values[section] for section in COMPARED}


def check_same(where: Path, old: Mapping[str, Any], new: Mapping[str, Any], accept: bool) -> None:
    """Raise UserError, showing both values, where the flat `new` differs; or `accept` it."""
    lines = differences(old, new)
    if not lines:
        return
    message = "\n".join([f"{where} holds a run with another configuration or data:", *lines])
    if not accept:
        raise UserError(
            f"{message}\nResume it as it was, choose another --workdir, or go on with the change by"
            " --accept_changes=True"
        )
    print(f"warning: {message}", file=sys.stderr)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each field of the flat `new` that was another in `old`, of any format."""
    there = present(old)
    changed = [k for k in new if k in there and there[k] != new[k]]
    return [f"  {k}: there {there.get(k)!r}, now {new[k]!r}" for k in changed]


def check_startable(run: Run) -> None:
    """Raise UserError unless a run without a checkpoint may begin in its folder.

    A run that was killed before its first checkpoint may. What else left results would lose them.
    """
    log, begun = run.workdir / "metrics.jsonl", run.checkpoints.begun()
    results = [
        name for name in ("best", "evaluation", "report.html") if (run.workdir / name).exists()
    ]
    if log.exists() and read_metrics(log):
        results.append(log.name)
    if not results:
        return
    experiment, had_checkpoint = begun or ({}, True)
    changed = [] if had_checkpoint else differences(experiment, run.checkpoints.experiment)
    if not had_checkpoint and not changed:
        return
    reason = "of another configuration or data" if changed else "but no checkpoint to go on from"
    best = run.workdir / "best"
    start = f", with --pretrained={best} to start from its weights" if best.exists() else ""
    message = (
        f"workdir = {run.workdir} holds results ({', '.join(results)}) {reason}, which a new run"
        f" would replace: choose another --workdir{start}"
    )
    raise UserError("\n".join([message, *changed]))


def start(run: Run) -> TrainState:
    """The newest checkpoint's state, or a fresh one, on the mesh's devices."""
    config, checkpoints = run.config, run.checkpoints
    found = checkpoints.newest()
    if found is not None:
        there = found[1]["experiment"]
        check_same(run.workdir, there, checkpoints.experiment, config.machine.accept_changes)
    else:
        check_startable(run)
    restored = checkpoints.restore_newest(abstract_state(config, run.mesh))
    if restored is not None:
        step, state = restored
        print(f"resuming {config.machine.workdir} from step {step}", file=sys.stderr)
    else:
        if (run.workdir / "metrics.jsonl").exists():
            print(
                f"{config.machine.workdir} has no checkpoint yet: starting at step 0",
                file=sys.stderr,
            )
        state = fresh_state(config, initial_variables(config, run.source), run.mesh)
    checkpoints.begin()
    if writes():
        save_json(config, run.workdir / "config.json")
    return state


def batches_from(run: Run, position: int) -> Batches:
    """This host's share of the batches from a position on."""
    config, (host, hosts) = run.config, host_share(run.mesh)
    return train_batches(
        run.source,
        config,
        start_step=position,
        host=host,
        hosts=hosts,
        fill=mean_pixel(config.model.backbone),
    )


def initial_variables(config: Config, source: Source) -> Any:
    """Random variables, overlaid with the pretrained ones where asked for."""
    init = jax.jit(init_variables, static_argnums=0, compiler_options=COMPILE_QUICKLY)
    variables = init(config.model, jax.random.key(config.train.seed))
    if not config.train.pretrained:
        return variables
    pretrained = load_weights(config.train.pretrained, complete=False)
    variables = overlay(variables, pretrained, config, source.class_names)
    if config.train.reestimate_batch_norm:
        batches = train_batches(
            source,
            config,
            fill=mean_pixel(config.model.backbone),
        )
        images = (next(batches)["image"] for _ in range(BATCH_NORM_BATCHES))
        variables = reestimate_batch_norm(variables, build_model(config.model), images)
    return variables


def overlay(
    variables: Any, pretrained: Weights, config: Config, class_names: tuple[str, ...]
) -> Any:
    """`variables` with every pretrained module put in place.

    A module that the pretrained network lacks (a decoder, say) keeps its random start, as does the
    last layer of a segmentation model that starts from a classifier; one of another shape is
    refused. MobileNetV2's 1280-channel layer is dropped where this network has none. Classes of
    other names or in another order than `class_names` are said where the last layer is taken.
    """
    out: dict[str, Any] = {}
    taken = [m for m in variables["params"] if m in pretrained.variables["params"]]
    classifiers = [m.head == "classifier" for m in (pretrained.model, config.model)]
    if not config.train.pretrained_logits or any(classifiers) != all(classifiers):
        taken = [m for m in taken if m != "logits"]
    for collection, modules in variables.items():
        out[collection] = dict(modules)
        for name in taken:
            if name in modules:
                theirs = pretrained.variables[collection][name]
                if name == "backbone" and LAST_CONV not in modules[name]:
                    theirs = {k: v for k, v in theirs.items() if k != LAST_CONV}
                check_shapes(f"{collection}/{name}", modules[name], theirs, config.train.pretrained)
                out[collection][name] = theirs
    if "logits" in taken and (other := other_names(pretrained.task.classes, class_names)):
        print(
            f"warning: the last layer of {config.train.pretrained} was trained for classes of other names"
            f" than the data's ({other}); --pretrained_logits=False starts it afresh",
            file=sys.stderr,
        )
    left = [m for m in pretrained.variables["params"] if m not in taken]
    note = f"; left out: {', '.join(left)}" if left else ""
    print(f"from {config.train.pretrained}: {', '.join(taken)}{note}", file=sys.stderr)
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


def scored_by(run: Run) -> dict[str, Any]:
    """What a score depends on beside the weights: two of other such cannot be compared."""
    config, task = protocol(run.config), run.config.task
    names = ("output_stride", "scales", "flip", "window", "overlap")
    return {
        **{name: config[name] for name in names},
        "eval_size": task.eval_size,
        "resize": task.resize,
        "white": task.white,
        "evaluation set": run.evaluator.source.fingerprint,
    }


def note_of(run: Run, step: int, result: Evaluation) -> dict[str, Any]:
    """What is kept with the best weights, as JSON has it; a `value` of None is not defined."""
    metric = "eval/pixel_accuracy" if result.one_label else "eval/miou"
    note = {"step": step, "metric": metric, "value": summary(result)[metric]}
    return dict(json.loads(json_text(note | {"by": scored_by(run)})))


def keep_best(run: Run, step: int, state: TrainState, result: Evaluation) -> None:
    """Write the weights to `best` when those there were not scored better, as they say."""
    variables = on_host(state.averaged)  # by every process: it may gather
    if not writes():
        return
    best, note = run.workdir / "best", note_of(run, step, result)
    if not missing_files(best):
        there = read_note(best).get("value")
        if there is not None and (note["value"] is None or note["value"] < there):
            return
    write_best(best, Weights(run.config.model, run.config.task, variables), note)


def write_best(best: Path, weights: Weights, note: dict[str, Any]) -> None:
    try:
        save_weights(best, weights, note)
    except OSError as error:
        print(f"warning: {best} could not be written: {error}", file=sys.stderr)


def score_best_anew(run: Run) -> None:
    """Where the best weights were scored by another evaluation, score them by this one."""
    best = run.workdir / "best"
    if missing_files(best):
        return
    there = read_note(best)
    if there.get("by") == json.loads(json_text(scored_by(run))):
        return
    print(f"{best} was scored by another evaluation: once more by this one", file=sys.stderr)
    weights = load_weights(best)
    result = run.evaluator(place(weights.variables, run.mesh))
    if writes():
        write_best(best, weights, note_of(run, there.get("step", 0), result))
    wait_for_all("best weights scored")


def finish(run: Run) -> None:
    """Evaluate the best weights again; leave tables, images and a report in the run's folder."""
    workdir, evaluator = run.workdir, run.evaluator
    wait_for_all("best weights written")
    best = load_weights(workdir / "best")
    result = evaluator(place(best.variables, run.mesh))
    if not writes():
        return
    table = write_evaluation(result, evaluator.source, workdir / "evaluation")
    print(table)
    print(f"\n{result.headline}; best weights: {workdir / 'best'}", end="; ")
    print(f"report: {write_report(workdir)}")
