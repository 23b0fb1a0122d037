"""When a run ends: early, where evaluations gain nothing."""

from collections.abc import Mapping

from deeplab_jax.config import Config
from deeplab_jax.training.optim import make_schedule


def early_end(config: Config, scores: Mapping[int, float], step: int) -> str:
    """Why a run ends after this step, which is not its last, and what that cuts; "": it goes on.

    `scores` are those of its evaluations by step. An equal score is no gain.
    """
    patience, length = config.machine.patience, config.train.length
    if not patience or not scores or step == length:
        return ""
    best = max(sorted(scores), key=lambda at: scores[at])
    later = sum(at > best for at in scores)
    if later < patience:
        return ""
    rate = make_schedule(config.optim, length)
    now, last = float(rate(step)), float(rate(length - 1))
    return (
        f"ended at step {step} of {length}: {later} evaluations after that of step {best} were no"
        f" better (machine.patience = {patience}). That cuts off {length - step} steps, over which"
        f" the learning rate would have gone from {now:.3g} to {last:.3g}; with"
        " --machine.patience=0 the same command goes on"
    )
