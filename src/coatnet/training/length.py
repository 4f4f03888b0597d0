"""Steps are the clock: epochs and time budgets become steps once, and the pace of a run follows from them."""

from __future__ import annotations

import math
from typing import NamedTuple

from coatnet.errors import ConfigError
from coatnet.training.config import RunConfig

NUM_EVALUATIONS = 10
"""Evaluations in a run unless another pace is asked for: a curve that can be read, at little cost."""
NUM_LOG_LINES = 200
"""Lines of training metrics in a run: as many points as a curve can show."""
MOST_UNSAVED_STEPS = 500
"""Steps between checkpoints at the most: with minutes per 500 steps, a crash costs minutes."""
BUDGET_SHARE = 0.96
"""Share of a time budget that is planned: the rest is for start-up, checkpoints and a machine that slows down."""


class Pace(NamedTuple):
    """Measured durations, seconds."""

    step: float
    """One training step."""
    evaluation: float
    """One evaluation on the validation split, of raw and averaged weights, and on training images where that is asked
    for."""
    final: float
    """The evaluations that are not repeated: of initial weights before the first step, and the one at the end."""


def resolve_length(run: RunConfig, num_images: int, pace: Pace | None) -> RunConfig:
    """The same run with its length in steps.

    Args:
        run: length as steps, epochs or time.
        num_images: training images.
        pace: needed for a time budget.

    Raises:
        ConfigError: the time budget is too short for a single step.
    """
    if run.steps is not None:
        return run
    if run.epochs is not None:
        return run.replace(steps=max(1, round(run.epochs * num_images / run.batch_size)), epochs=None)
    assert run.time is not None
    assert pace is not None
    seconds = run.time * BUDGET_SHARE - NUM_EVALUATIONS * pace.evaluation - pace.final
    if seconds < pace.step:
        raise ConfigError(
            f"time {run.time:.0f} s is too short: a step takes {pace.step:.2f} s and the evaluations "
            f"{NUM_EVALUATIONS * pace.evaluation + pace.final:.0f} s",
            "give more time, or a smaller --image-size or --model",
        )
    return run.replace(steps=int(seconds / pace.step), time=None)


def set_pace(run: RunConfig, num_images: int) -> RunConfig:
    """The same run with the steps between evaluations, checkpoints and log lines set."""
    assert run.steps is not None
    epoch = math.ceil(num_images / run.batch_size)
    evaluate_every = run.evaluate_every or min(run.steps, max(epoch, math.ceil(run.steps / NUM_EVALUATIONS)))
    return run.replace(
        evaluate_every=evaluate_every,
        save_every=run.save_every or min(evaluate_every, MOST_UNSAVED_STEPS),
        log_every=run.log_every or max(1, run.steps // NUM_LOG_LINES),
    )


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and after the last, happens after `step` steps done."""
    return step % every == 0 or step == last
