"""The best weights so far: evaluated now and then, kept with their score, and shown at the end."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from deeplab_jax.config import flatten, to_dict
from deeplab_jax.inference.evaluate import Evaluation, Evaluator
from deeplab_jax.inference.results import collect_scores, main_metric, write_evaluation
from deeplab_jax.parallel.mesh import fetch_whole, place
from deeplab_jax.parallel.processes import wait_for_all, writes
from deeplab_jax.reporting.report import write_report
from deeplab_jax.training.interruption import Interrupted
from deeplab_jax.training.log import Log
from deeplab_jax.training.state import TrainState
from deeplab_jax.weights.files import Weights, load_weights, missing_files, read_note, save_weights

SCORED_BY = (  # what a score depends on beside the weights
    *("model.output_stride", "eval.scales", "eval.flip", "eval.window", "eval.overlap"),
    *("task.eval_size", "task.resize", "task.range"),
)


def best_folder(evaluator: Evaluator) -> Path:
    return Path(evaluator.config.machine.workdir) / "best"


def evaluate_when_due(evaluator: Evaluator, log: Log, step: int, state: TrainState) -> None:
    """Evaluate after every so many steps and after the last, but no step twice.

    Unless the best weights are gone, without which a finished run could not end again.
    """
    every = evaluator.config.machine.eval_every
    if step == 0 or (step % every and step != evaluator.config.train.length):
        return
    best, logged = best_folder(evaluator), step in log.evaluated
    lost = ", ".join(missing_files(best))
    if logged and not lost:
        return
    if logged:
        print(f"{best} lacks {lost}: the weights of step {step} take its place", file=sys.stderr)
    log.flush()
    with suppress(Interrupted):  # the loop saves, then leaves; this is made up for on resuming
        result = evaluator(state.averaged)
        # The weights first: a run killed between the two evaluates again.
        keep_best(evaluator, step, state, result)
        if not logged:
            log.evaluation(step, result, evaluator.source)


def keep_best(evaluator: Evaluator, step: int, state: TrainState, result: Evaluation) -> None:
    """Write the weights to `best` when those there were not scored better, as they say."""
    variables = fetch_whole(state.averaged)  # by every process: it may gather
    if not writes():
        return
    config, best = evaluator.config, best_folder(evaluator)
    note = make_note(step, result, evaluator)
    there = None if missing_files(best) else read_note(best).get("value")
    if there is None or note["value"] >= there:
        write_best(best, Weights(config.model, config.task, variables), note)


def make_note(step: int, result: Evaluation, evaluator: Evaluator) -> dict[str, Any]:
    """What is kept with the best weights: their score, nan where undefined, and how it was made."""
    metric = main_metric(result.one_label)
    value = collect_scores(result)[metric]
    return {"step": step, "metric": metric, "value": value, "by": scoring(evaluator)}


def scoring(evaluator: Evaluator) -> dict[str, Any]:
    """How a score was made: two that were made in other ways cannot be compared."""
    flat = flatten(to_dict(evaluator.config))
    by = {name.partition(".")[2]: flat[name] for name in SCORED_BY}
    return by | {"evaluation set": evaluator.source.fingerprint}


def write_best(best: Path, weights: Weights, note: dict[str, Any]) -> None:
    """Write weights and their note; where that fails, the run goes on."""
    try:
        save_weights(best, weights, note)
    except OSError as error:
        print(f"warning: {best} could not be written: {error}", file=sys.stderr)


def score_best_anew(evaluator: Evaluator) -> None:
    """Where the best weights were scored by another evaluation, score them by this one."""
    best = best_folder(evaluator)
    if missing_files(best):
        return
    note = read_note(best)
    if note.get("by") == scoring(evaluator):
        return
    print(f"{best} was scored by another evaluation: once more by this one", file=sys.stderr)
    weights = load_weights(best)
    result = evaluator(place(weights.variables, evaluator.mesh))
    if writes():
        write_best(best, weights, make_note(note.get("step", 0), result, evaluator))
    wait_for_all("best weights scored")


def finish(evaluator: Evaluator) -> None:
    """Evaluate the best weights again; leave tables, images and a report in the run's folder."""
    best = best_folder(evaluator)
    wait_for_all("best weights written")
    result = evaluator(place(load_weights(best).variables, evaluator.mesh))
    if not writes():
        return
    print(write_evaluation(result, evaluator.source, best.with_name("evaluation")))
    report = write_report(best.parent)
    print(f"\n{result.headline}; best weights: {best}; report: {report}")
