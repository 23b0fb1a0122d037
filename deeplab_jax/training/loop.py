"""`fit`: a whole run, from the data to the report. It alone of training has side effects."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from deeplab_jax.config import Config
from deeplab_jax.data.batches import BadRecords, Batches, for_device, train_batches
from deeplab_jax.data.checks import warn_of_samples
from deeplab_jax.data.hook import check_hook
from deeplab_jax.data.settle import Choices, open_split, with_choices
from deeplab_jax.data.source import Source, read_as
from deeplab_jax.data.workers import ReaderFailed
from deeplab_jax.errors import UserError
from deeplab_jax.files import Locked, locked, writable_folder
from deeplab_jax.inference.evaluate import Evaluator
from deeplab_jax.models import mean_pixel
from deeplab_jax.parallel.mesh import (
    check_batch_size,
    device_mesh,
    host_share,
    place_batch,
    replicated,
)
from deeplab_jax.parallel.processes import writes
from deeplab_jax.progress import Ticker
from deeplab_jax.training.best import evaluate_when_due, finish, score_best_anew
from deeplab_jax.training.budget import choose_by_time
from deeplab_jax.training.checkpoint import Checkpoints
from deeplab_jax.training.choices import settle_run
from deeplab_jax.training.ending import early_end
from deeplab_jax.training.interruption import Interrupted, Interruption
from deeplab_jax.training.log import Log, NumbersGoneBad
from deeplab_jax.training.opening import print_opening
from deeplab_jax.training.resume import begin_or_resume, describe_experiment
from deeplab_jax.training.state import TrainState
from deeplab_jax.training.step import compile_train_step
from deeplab_jax.training.trackers import check_installed

ROLLBACKS = 3  # in one go: data that is bad everywhere is not to be passed over for ever


class Run(NamedTuple):
    """What stays the same while a run trains."""

    config: Config
    source: Source
    mesh: Mesh
    evaluator: Evaluator
    checkpoints: Checkpoints
    interruption: Interruption


def fit(config: Config) -> TrainState:
    """Train, evaluate and keep what matters in `config.machine.workdir`; run again to resume.

    Raises:
      UserError: for anything wrong with the configuration or the data, before the first step; for
        a folder in which another process trains; and for what makes going on senseless.
      Interrupted: by a signal or a preemption notice, after saving.
      ReaderFailed: the data can no longer be read, after saving.
    """
    workdir = Path(config.machine.workdir)
    if writes():
        check_installed(config.machine.log_to)
    with ExitStack() as stack:
        stack.enter_context(lock_folder(workdir))
        mesh = device_mesh(config.mesh.shape)
        settled, chosen, source, eval_source = open_sources(config, mesh)
        train = settled.train
        check_batch_size("train.batch_size", train.batch, mesh, train.accumulate)
        by_time = choose_by_time(settled, source, eval_source, mesh)
        settled, chosen = with_choices(settled, by_time), chosen | by_time
        print_opening(settled, chosen, source, eval_source)
        experiment = describe_experiment(settled, source, eval_source)
        interruption = stack.enter_context(Interruption(settled.machine.hang_seconds))
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", experiment, keep_every=settled.machine.keep_every)
        )
        evaluator = Evaluator(settled, eval_source, mesh, interruption.check)
        run = Run(settled, source, mesh, evaluator, checkpoints, interruption)
        state = train_over_bad_data(run)
        if not checkpoints.wait():
            raise UserError(f"{workdir}: the last checkpoint is not on disk; see the warning above")
        finish(evaluator)
    return state


@contextmanager
def lock_folder(workdir: Path) -> Iterator[None]:
    """The folder can be written to, and no other run trains there meanwhile."""
    if not writes():  # another process of this run does, and holds the lock
        yield
        return
    writable_folder(workdir, "workdir")
    try:
        with locked(workdir / "lock", wait=False):
            yield
    except Locked as error:
        raise UserError(
            f"workdir = {workdir}: {error} trains there. Wait for its end, or choose another"
            " --workdir"
        ) from error


def open_sources(config: Config, mesh: Mesh) -> tuple[Config, Choices, Source, Source]:
    """Both splits, with a sample of each decoded and checked; what was chosen, and with it all."""
    train, evaluation = config.data.train_split, config.data.eval_split
    sources = {split: open_split(config, split) for split in (train, evaluation)}
    settled, chosen = settle_run(config, sources[train], mesh)
    sources = {split: read_as(source, settled) for split, source in sources.items()}
    warn_of_samples(sources, config)
    if settled.augment.hook:
        image = (settled.train.batch, *settled.data.crop, settled.model.image_channels)
        label = (1, 1) if settled.data.one_label else settled.data.crop
        check_hook(settled.augment.hook, image, (image[0], *label))
    return settled, chosen, sources[train], sources[evaluation]


def train_over_bad_data(run: Run) -> TrainState:
    """`train`; where the configuration says so, over data on which the numbers go bad.

    It goes back to the last checkpoint, and from there on with the data that came after.
    """
    state = begin_or_resume(run.config, run.source, run.mesh, run.checkpoints)
    left = ROLLBACKS if run.config.machine.rollback else 0
    while True:
        offset = int(state.data_offset)
        try:
            return train(run, state)
        except NumbersGoneBad as bad:
            if left == 0:
                raise
            left -= 1
            print(f"warning: {bad}\nGoing back and passing over these images", file=sys.stderr)
            state = begin_or_resume(run.config, run.source, run.mesh, run.checkpoints)
            passed_over = jnp.int32(bad.step + offset - int(state.step))
            state = replace(state, data_offset=jax.device_put(passed_over, replicated(run.mesh)))


def train(run: Run, state: TrainState) -> TrainState:
    """Every step from the state's to the last, or to that after which nothing was gained.

    Where the data cannot be read on, the steps that are done are saved first.
    """
    config, evaluator, first = run.config, run.evaluator, int(state.step)
    train_step = compile_train_step(config, state, run.mesh, run.source.ignore_label)
    bad_records = BadRecords(run.source, config.machine.max_bad_records)
    log_file = Path(config.machine.workdir) / "metrics.jsonl"
    with (
        closing(batches_from(run, first + int(state.data_offset))) as batches,
        Log(log_file, first, config, run.source) as log,
        Ticker("train", config.train.length, first) as bar,
    ):
        evaluator.compile(state.averaged)  # now, when an interruption costs nothing
        score_best_anew(evaluator)
        evaluate_when_due(evaluator, log, first, state)  # of a run that was interrupted in it
        try:
            for step in range(first + 1, config.train.length + 1):
                if early_end(config, log.evaluated, step - 1):
                    break
                with log.waiting():
                    batch = next(batches)
                    bad_records.note(batch)
                state, metrics = train_step(state, place_batch(for_device(batch), run.mesh))
                run.interruption.nothing_to_save = False
                bar.tick(step, log.train(step, metrics, batch["record"]))
                evaluate_when_due(evaluator, log, step, state)
                save_when_due(run, log, step, state)
        except NumbersGoneBad:  # in a state that is no good
            raise
        except (ReaderFailed, UserError) as error:
            save_what_there_is(run, log, state)
            if run.interruption.received:
                raise Interrupted from error
            raise
        if reason := early_end(config, log.evaluated, int(state.step)):
            log.end(int(state.step), reason)
    return state


def save_when_due(run: Run, log: Log, step: int, state: TrainState) -> None:
    """Save after every so many steps, after the last, and when asked to leave; then leave."""
    leaving = run.interruption.must_leave(step)
    every, length = run.config.machine.checkpoint_every, run.config.train.length
    is_last = step == length or early_end(run.config, log.evaluated, step)
    if step % every == 0 or is_last or leaving:
        log.flush()
        if leaving or not log.skipping:  # else there would be no good one to go back to
            run.checkpoints.save(step, state)
    run.checkpoints.poll()
    if leaving:
        run.checkpoints.wait()
        raise Interrupted


def save_what_there_is(run: Run, log: Log, state: TrainState) -> None:
    """Save where the data cannot be read on; of several processes the others would not join in."""
    if run.interruption.nothing_to_save or jax.process_count() > 1:
        return
    log.flush()
    run.checkpoints.save(int(state.step), state)
    if run.checkpoints.wait():
        print(f"saved step {state.step}: the data cannot be read on", file=sys.stderr)


def batches_from(run: Run, position: int) -> Batches:
    """This host's share of the batches from a position on."""
    host, hosts = host_share(run.mesh)
    fill = mean_pixel(run.config.model)
    return train_batches(
        run.source, run.config, start_step=position, host=host, hosts=hosts, fill=fill
    )
