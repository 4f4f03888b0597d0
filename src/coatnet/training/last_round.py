"""The last round of `coatnet tune`: the best trials against the recipe, with seeds that no trial had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coatnet.errors import QualityError, Stopped
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics
from coatnet.training.search_space import apply_settings, recipe_settings
from coatnet.training.trial import run_trial

FINALISTS = 3
"""Trials that run against the recipe at the most."""
SEEDS = 4
"""Of the last round. Settings as good as the recipe's are better with each of 4 seeds once in 16 times; with that,
`FINALISTS` of them pass for better less than once in five times, and worse ones hardly ever."""


@dataclass(frozen=True)
class Contender:
    """Settings in the last round."""

    number: int
    """The trial they are from; 0 is the recipe."""
    top1: tuple[float, ...]
    """Validation accuracy at the end of a run with each seed, as far as it came: who is not better than the recipe with
    a seed is out."""
    won: bool
    """Better than the recipe with each seed."""

    @property
    def mean(self) -> float:
        """Mean of the accuracies."""
        return sum(self.top1) / len(self.top1)


def last_round(
    config: TrainConfig, folder: Path, finalists: Mapping[int, Mapping[str, float]]
) -> tuple[Contender, ...]:
    """Run the best settings and the recipe's, seed by seed; runs that are done are not done again.

    Args:
        config: what the recipe chose.
        folder: of the search; the runs are last-TRIAL-SEED in it.
        finalists: settings by trial, the best first; those after the first `FINALISTS` are left out.

    Returns:
        The recipe, then the finalists; nothing if there are none.

    Raises:
        Stopped: a signal came; what was done is kept.
    """
    settings = {0: recipe_settings(config), **dict(list(finalists.items())[:FINALISTS])}
    scores: dict[int, list[float]] = {number: [] for number in settings}
    left = set(settings) - {0}
    for seed in range(config.run.seed + 1, config.run.seed + 1 + SEEDS):
        if not left:
            break
        for number in (0, *sorted(left)):
            chosen = lay_over(apply_settings(config, settings[number]), run={"seed": seed})
            scores[number].append(_accuracy(chosen, RunFolder(folder / f"last-{number}-{seed}")))
        left = {number for number in left if scores[number][-1] > scores[0][-1]}
    return tuple(Contender(one, tuple(top1), one in left) for one, top1 in scores.items()) if len(settings) > 1 else ()


def _accuracy(config: TrainConfig, run: RunFolder) -> float:
    """Validation accuracy at the end of a run, done now, gone on with, or done before; 0 if it diverges."""
    if not run.exists() or _last(run) is None:
        try:
            run_trial(config, run)
        except QualityError:
            return 0.0
        except Stopped:
            told = f"stopped in {run.path.name}; everything is kept"
            raise Stopped(told, "give the same command again") from None
    found = _last(run)
    assert found is not None
    return found


def _last(run: RunFolder) -> float | None:
    """Validation accuracy after the last step, if the run came to it."""
    if not run.metrics.is_file():
        return None
    steps = run.read_config().run.steps
    lines = (line for line in read_metrics(run.metrics) if line["step"] == steps and line.get("evaluation") == "val")
    return next((float(line["top1"]) for line in lines), None)
