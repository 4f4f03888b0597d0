import pytest

from coatnet.errors import ConfigError
from coatnet.training.config import RunConfig
from coatnet.training.length import Pace, is_due, resolve_length, set_pace


@pytest.mark.parametrize(
    ("step", "every", "last", "due"),
    [(1, 1, 9, True), (2, 1, 9, True), (3, 2, 9, False), (4, 2, 9, True), (9, 4, 9, True), (8, 9, 10, False)],
)
def test_is_due(step: int, every: int, last: int, due: bool) -> None:
    assert is_due(step, every, last) is due


def test_epochs_become_steps() -> None:
    run = resolve_length(RunConfig(epochs=2.5, batch_size=10), 100, None)
    assert (run.steps, run.epochs) == (25, None)
    assert resolve_length(RunConfig(epochs=0.001, batch_size=10), 100, None).steps == 1


def test_a_time_budget_pays_for_its_evaluations() -> None:
    pace = Pace(step=0.5, evaluation=2.0, final=4.0)
    run = resolve_length(RunConfig(time=100.0), 1000, pace)
    assert run.time is None
    assert run.steps is not None
    assert run.steps * pace.step + 10 * pace.evaluation + pace.final <= 100
    assert run.steps >= 140


def test_a_time_budget_that_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"time 10 s is too short: a step takes 1\.00 s and the evaluations 30 s"):
        resolve_length(RunConfig(time=10.0), 1000, Pace(1.0, 2.0, 10.0))


def test_the_pace_follows_from_the_length() -> None:
    run = set_pace(RunConfig(steps=1000, batch_size=10), 300)
    assert (run.evaluate_every, run.save_every, run.log_every) == (100, 100, 5)
    at_most_once_an_epoch = set_pace(RunConfig(steps=1000, batch_size=10), 5000)
    assert at_most_once_an_epoch.evaluate_every == 500
    long = set_pace(RunConfig(steps=100_000, batch_size=10), 5000)
    assert (long.evaluate_every, long.save_every) == (10_000, 500)
    asked = set_pace(RunConfig(steps=10, batch_size=10, evaluate_every=3, save_every=4, log_every=5), 300)
    assert (asked.evaluate_every, asked.save_every, asked.log_every) == (3, 4, 5)
