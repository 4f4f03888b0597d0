"""What is said of results whose answers are known."""

import pytest

from coatnet.study.analysis import EQUAL_LOSS, FINAL, FITTED, GAP, at_equal_loss, convergence, differences, verdicts
from coatnet.study.plan import PlannedRun
from coatnet.study.results import Moment, Result


def result(experiment: str, arm: str, seed: int, top1: float, moments: list[Moment]) -> Result:
    run = PlannedRun(name=f"{experiment}/{arm}/{seed}", experiment=experiment, arm=arm, setting=1.0, seed=seed)
    return Result(run, 1e-3, 100, tuple(moments), top1, "test", 1.0, 1.0)


def course(accuracy: float, *losses: float, fitted: float = 0.9) -> list[Moment]:
    """Validation accuracy that rises from 0 to `accuracy`, as the loss falls."""
    last = len(losses) - 1
    return [Moment(10 * (i + 1), loss, fitted, 1.0, accuracy * i / last) for i, loss in enumerate(losses)]


GENERALIZED = [
    result("generalization", arm, seed, top1 + 0.001 * seed, course(top1, *losses))
    for seed in range(5)
    for arm, top1, losses in (
        ("CCCC", 0.7, (2.0, 1.0, 0.5)),
        ("CCCT", 0.7, (2.0, 1.0, 0.25)),
        ("CCTT", 0.6, (2.0, 1.0, 0.5)),
    )
]


def test_equal_loss_is_the_lowest_that_all_came_to() -> None:
    found = at_equal_loss([one for one in GENERALIZED if one.run.seed == 0])
    assert found["CCCC"] == {0: pytest.approx(0.7)}
    assert found["CCCT"] == {0: pytest.approx(0.525)}  # 0.5 is halfway between 1 and 0.25 in the logarithm


def test_verdicts_by_each_measure() -> None:
    told = {
        one.measure: [(pair.better, pair.worse, pair.verdict) for pair in one.pairs] for one in verdicts(GENERALIZED)
    }
    assert set(told) == {EQUAL_LOSS, FINAL, GAP}
    assert told[FINAL] == [("CCCC", "CCCT", "holds"), ("CCCT", "CCTT", "holds")]
    assert told[EQUAL_LOSS] == [("CCCC", "CCCT", "contradicted"), ("CCCT", "CCTT", "contradicted")]
    assert told[GAP] == [("CCCC", "CCCT", "holds"), ("CCCT", "CCTT", "holds")]  # 0.2 against 0.3: the smaller is better


def test_capacity_is_judged_on_what_was_fitted_and_on_the_end() -> None:
    results = [
        result("capacity", arm, seed, 0.5, course(0.5, 1.0, 0.5, fitted=fitted))
        for seed in range(5)
        for arm, fitted in (("ViT", 0.8), ("CCCT", 0.7))
    ]
    told = {one.measure: one.pairs[0].verdict for one in verdicts(results)}
    assert told == {FITTED: "holds", FINAL: "undecided"}


def test_transfer_and_ablations_are_judged_by_the_papers_tables() -> None:
    """The base stands among the layouts of generalization; transfer has a verdict at each image size."""
    results = [
        result(experiment, arm, seed, top1 + 0.001 * seed, course(top1, 1.0, 0.5))
        for seed in range(5)
        for experiment, arm, top1 in (
            ("generalization", "CCTT", 0.6),
            ("generalization", "CTTT", 0.9),
            ("ablations", "no relative attention", 0.5),
            ("ablations", "stride in depthwise", 0.58),
            ("transfer", "CCTT", 0.7),
            ("transfer", "CTTT", 0.8),
        )
    ]
    ablated = (("CCTT", ">", "no relative attention"), ("stride in depthwise", ">=", "CCTT"), ("CCTT", "~", "not run"))
    told = {
        one.experiment: [(pair.better, pair.worse, pair.verdict) for pair in one.pairs]
        for one in verdicts(results, ablated)
    }
    assert told["transfer"] == [("CCTT", "CTTT", "contradicted")]
    assert told["ablations"] == [
        ("CCTT", "no relative attention", "holds"),
        ("stride in depthwise", "CCTT", "contradicted"),
    ]


def test_convergence_is_counted_to_what_all_reached() -> None:
    found = convergence(GENERALIZED)
    assert (found.train_loss, found.val_top1) == (0.5, 0.6)
    assert found.steps_to_loss["CCCT"].mean == 30
    assert found.steps_to_accuracy["CCTT"].mean == 30


def test_differences_are_from_one_network() -> None:
    base = [one for one in GENERALIZED if one.run.arm == "CCCC"]
    assert differences(GENERALIZED, base)["CCTT"].mean == pytest.approx(-0.1)
