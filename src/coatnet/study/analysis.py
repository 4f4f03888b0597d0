"""From the results of runs to what a study says: means, verdicts, convergence. Numbers only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coatnet.study.results import Result, accuracy_at_loss, steps_to
from coatnet.study.statistics import (
    CAPACITY,
    GENERALIZATION,
    TRANSFER,
    Interval,
    Judged,
    Ordering,
    interval,
    judge,
    paired,
)

BySeed = dict[int, float]
Values = dict[str, BySeed]
"""For each network a number by seed."""

EQUAL_LOSS = "validation accuracy at equal training loss"
FINAL = "final accuracy"
GAP = "gap between training and validation accuracy"
FITTED = "accuracy on training images"


@dataclass(frozen=True)
class Verdicts:
    """An ordering of the paper, judged at one setting by one measure."""

    experiment: str
    setting: float
    measure: str
    pairs: tuple[Judged, ...]


@dataclass(frozen=True)
class Convergence:
    """How fast the networks came to what all of them reached, at one setting."""

    train_loss: float
    """The lowest that every run came to."""
    val_top1: float
    """The highest that every run came to."""
    steps_to_loss: Mapping[str, Interval]
    steps_to_accuracy: Mapping[str, Interval]


def of(results: Iterable[Result], experiment: str, setting: float | None = None) -> list[Result]:
    """The results of an experiment, at one setting if it is given."""
    return [one for one in results if one.run.experiment == experiment and setting in (None, one.run.setting)]


def settings(results: Iterable[Result]) -> list[float]:
    """The settings that there are results of."""
    return sorted({one.run.setting for one in results})


def values(results: Iterable[Result], measure: Callable[[Result], float]) -> Values:
    """A number of each run, by network and seed."""
    found: Values = {}
    for one in results:
        found.setdefault(one.run.arm, {})[one.run.seed] = measure(one)
    return found


def means(numbers: Mapping[str, BySeed]) -> dict[str, Interval]:
    """Mean and interval over the seeds, by network."""
    return {arm: interval(list(by_seed.values())) for arm, by_seed in numbers.items()}


def at_equal_loss(results: Sequence[Result]) -> Values:
    """Validation accuracy of runs of one setting at one training loss for each seed: the lowest that all came to."""
    found: Values = {}
    for seed in sorted({one.run.seed for one in results}):
        same = [one for one in results if one.run.seed == seed]
        level = max(min(moment.train_loss for moment in one.moments) for one in same)
        for one in same:
            accuracy = accuracy_at_loss(one.moments, level)
            assert accuracy is not None  # every run came to this loss
            found.setdefault(one.run.arm, {})[seed] = accuracy
    return found


def verdicts(results: Sequence[Result], ablated: Ordering = ()) -> list[Verdicts]:
    """The paper's orderings, at every setting, by every measure that speaks of them; higher is better in each.

    Args:
        results: of a study.
        ablated: what the paper says of the ablations, see `ablations.claims`.
    """
    found = []
    for setting in settings(of(results, "generalization")):
        some = of(results, "generalization", setting)
        measures = {
            EQUAL_LOSS: at_equal_loss(some),
            FINAL: values(some, lambda one: one.top1),
            GAP: values(some, lambda one: -one.gap),
        }
        for name, numbers in measures.items():
            found.append(Verdicts("generalization", setting, name, judge(GENERALIZATION, numbers)))
    for setting in settings(of(results, "capacity")):
        some = of(results, "capacity", setting)
        measures = {
            FITTED: values(some, lambda one: one.last.train_top1),
            FINAL: values(some, lambda one: one.top1),
        }
        for name, numbers in measures.items():
            found.append(Verdicts("capacity", setting, name, judge(CAPACITY, numbers)))
    for setting in settings(of(results, "transfer")):
        top1 = values(of(results, "transfer", setting), lambda one: one.top1)
        found.append(Verdicts("transfer", setting, FINAL, judge(TRANSFER, top1)))
    for setting in settings(of(results, "ablations")):
        both = of(results, "generalization", setting) + of(results, "ablations", setting)
        top1 = values(both, lambda one: one.top1)
        found.append(Verdicts("ablations", setting, FINAL, judge(ablated, top1)))
    return [one for one in found if one.pairs]


def convergence(results: Sequence[Result]) -> Convergence:
    """Of runs of one setting."""
    loss = max(min(moment.train_loss for moment in one.moments) for one in results)
    accuracy = min(max(moment.val_top1 for moment in one.moments) for one in results)
    return Convergence(
        train_loss=loss,
        val_top1=accuracy,
        steps_to_loss=means(values(results, lambda one: _reached(steps_to(one.moments, train_loss=loss)))),
        steps_to_accuracy=means(values(results, lambda one: _reached(steps_to(one.moments, val_top1=accuracy)))),
    )


def differences(results: Sequence[Result], base: Sequence[Result]) -> dict[str, Interval]:
    """Final accuracy of each network less that of the one network of `base`, paired by seed."""
    whole = {one.run.seed: one.top1 for one in base}
    found = {arm: paired(numbers, whole) for arm, numbers in values(results, lambda one: one.top1).items()}
    return {arm: difference for arm, difference in found.items() if difference is not None}


def _reached(steps: float | None) -> float:
    assert steps is not None  # the levels are those that every run came to
    return steps
