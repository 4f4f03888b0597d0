"""Paired differences over seeds, and what they say of the paper's orderings. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Relation = Literal["~", ">=", ">", ">>"]
Verdict = Literal["holds", "contradicted", "undecided"]
Ordering = tuple[tuple[str, Relation, str], ...]
"""Pairs: (better, relation, worse)."""

CONFIDENCE = 0.95
EQUAL = 0.01
"""Two layouts are alike if the interval of their difference lies within so much: a point of accuracy."""
MUCH = 0.05
"""One is much better if the interval lies above so much."""
GENERALIZATION: Ordering = (
    ("CCCC", "~", "CCCT"),
    ("CCCT", ">=", "CCTT"),
    ("CCTT", ">", "CTTT"),
    ("CTTT", ">>", "ViT"),
)
"""Section 2.2: C-C-C-C ~ C-C-C-T >= C-C-T-T > C-T-T-T >> ViT_REL."""
CAPACITY: Ordering = (
    ("CCTT", "~", "CTTT"),
    ("CTTT", ">", "ViT"),
    ("ViT", ">", "CCCT"),
    ("CCCT", ">", "CCCC"),
)
"""Section 2.2: C-C-T-T ~ C-T-T-T > ViT_REL > C-C-C-T > C-C-C-C."""
TRANSFER: Ordering = (("CCTT", ">", "CTTT"),)
"""Table 2, at both image sizes."""


@dataclass(frozen=True)
class Interval:
    """Mean of N numbers with its t interval; without limits (infinite ones) for a single number."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Judged:
    """A pair of an ordering."""

    better: str
    relation: Relation
    worse: str
    difference: Interval
    """Of the first less the second, paired by seed; above 0 the first is better."""
    verdict: Verdict


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean and two-sided t interval of at least one number."""
    assert len(values)
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """The interval of the differences of two by seed; None where fewer than two seeds have both."""
    seeds = sorted(first.keys() & second.keys())
    return interval([first[seed] - second[seed] for seed in seeds]) if len(seeds) > 1 else None


def verdict(relation: Relation, difference: Interval) -> Verdict:
    """What the interval of a difference says of a relation.

    ~ holds within one point either way, and is contradicted by an interval that lies wholly outside. > holds above 0,
    and is contradicted below. >> holds above five points, and is contradicted wholly below them. >= holds as ~ or as >
    does, or above minus one point, and is contradicted below it.
    """
    low, high = difference.low, difference.high
    limits: dict[Relation, tuple[bool, bool]] = {
        "~": (low > -EQUAL and high < EQUAL, low > EQUAL or high < -EQUAL),
        ">=": (low > -EQUAL, high < -EQUAL),
        ">": (low > 0, high < 0),
        ">>": (low > MUCH, high < MUCH),
    }
    holds, contradicted = limits[relation]
    return "holds" if holds else "contradicted" if contradicted else "undecided"


def judge(ordering: Ordering, values: Mapping[str, Mapping[int, float]]) -> tuple[Judged, ...]:
    """The pairs of an ordering that there are numbers for.

    Args:
        ordering: the paper's.
        values: for each layout a number by seed, higher is better; differences of fractions.
    """
    found = []
    for better, relation, worse in ordering:
        difference = paired(values.get(better, {}), values.get(worse, {}))
        if difference is not None:
            found.append(Judged(better, relation, worse, difference, verdict(relation, difference)))
    return tuple(found)
