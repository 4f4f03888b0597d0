import math

import numpy as np
import pytest
from scipy import stats

from coatnet.study.statistics import CAPACITY, GENERALIZATION, Interval, interval, judge, paired, verdict


def test_intervals_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    for count in (2, 5, 30):
        first, second = generator.normal(0.7, 0.02, count), generator.normal(0.68, 0.02, count)
        found = paired(dict(enumerate(first)), dict(enumerate(second)))
        expected = stats.ttest_rel(first, second).confidence_interval(0.95)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
        assert found.count == count


def test_a_known_interval() -> None:
    """t(0.975, 4) = 2.776 (any table); of 1..5 the standard error is sqrt(2.5 / 5)."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.high - found.mean) == (3.0, pytest.approx(2.776 * math.sqrt(0.5), abs=1e-3))
    assert interval([0.3]) == Interval(0.3, -math.inf, math.inf, 1)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(1).normal(0.3, 1.0, (2000, 5))
    inside = [(found := interval(row)).low < 0.3 < found.high for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.0, 2: 7.0, 3: 0.0})
    assert found is not None
    assert (found.mean, found.count) == (1.5, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 1.0}, {0: 1.0}) is None  # one difference has no interval


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        ("~", -0.009, 0.009, "holds"),
        ("~", -0.011, 0.009, "undecided"),
        ("~", 0.011, 0.02, "contradicted"),
        ("~", -0.03, -0.011, "contradicted"),
        (">=", -0.009, 0.2, "holds"),
        (">=", -0.02, 0.2, "undecided"),
        (">=", -0.02, -0.011, "contradicted"),
        (">", 0.001, 0.2, "holds"),
        (">", -0.001, 0.2, "undecided"),
        (">", -0.2, -0.001, "contradicted"),
        (">>", 0.051, 0.2, "holds"),
        (">>", 0.049, 0.2, "undecided"),
        (">>", 0.01, 0.049, "contradicted"),
        (">", -math.inf, math.inf, "undecided"),
    ],
)
def test_verdicts(relation, low, high, expected) -> None:
    assert verdict(relation, Interval((low + high) / 2, low, high, 5)) == expected


def test_the_papers_orderings_hold_for_numbers_made_so() -> None:
    """And no pair of layouts is judged that has no numbers."""
    made = {"CCCC": 0.70, "CCCT": 0.70, "CCTT": 0.69, "CTTT": 0.66, "ViT": 0.55}
    values = {name: {seed: mean + 0.001 * (seed % 2) for seed in range(5)} for name, mean in made.items()}
    assert [one.verdict for one in judge(GENERALIZATION, values)] == ["holds"] * 4
    assert [one.verdict for one in judge(CAPACITY, values)] == ["contradicted", "holds", "contradicted", "undecided"]
    del values["CTTT"]
    assert [(one.better, one.worse) for one in judge(GENERALIZATION, values)] == [("CCCC", "CCCT"), ("CCCT", "CCTT")]
