"""A run of which only the accuracy on validation is wanted: it makes no classifier and reads no test image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from coatnet.training.config import TrainConfig
from coatnet.training.folder import RunFolder

if TYPE_CHECKING:
    from coatnet.evaluation.metrics import Evaluation


class _TrialOver(Exception):  # noqa: N818 (nothing failed)
    """The last evaluation that is needed was told."""


def run_trial(
    config: TrainConfig, run: RunFolder, is_enough: Callable[[int, Evaluation], bool] = lambda *_: False
) -> None:
    """Train until the last evaluation, or go on with a trial that was stopped.

    Args:
        config: what to do, if it is not begun.
        run: where; holds nothing else.
        is_enough: told of each evaluation, with the steps done; ends the trial there if it says so.

    Raises:
        QualityError: training diverged.
        Stopped: a signal came; what was done is saved.
        CoatnetError: as `train`, for the rest.
    """
    from coatnet.training import loop

    def watch(step: int, evaluation: Evaluation) -> None:
        if is_enough(step, evaluation) or step == run.read_config().run.steps:
            raise _TrialOver

    with suppress(_TrialOver):
        if run.exists():
            loop.resume(run.path, watch=watch)
        else:
            loop.train(config, run.path, watch=watch)
