import pytest
from pydantic import ValidationError

from coatnet.frozen import explain
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig, lay_over, parse_duration
from coatnet.training.recipes import small_data


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("45", 45)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert RunConfig(time=text).time == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["soon", "30 m", "m30", "1w", "", "-5m", "1h30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no duration; write it as 90s, 30m, 2h or 1h30m"):
        RunConfig(time=text)  # type: ignore[arg-type]


def test_two_lengths_are_refused() -> None:
    with pytest.raises(ValidationError, match="steps and time both set the length of the run; give one of them"):
        RunConfig(steps=3, time=60)


def test_a_given_length_replaces_the_recipes() -> None:
    config = small_data("digits")
    assert config.run.epochs is not None
    changed = lay_over(config, run={"steps": 7}, optimizer={"learning_rate": 0.5})
    assert (changed.run.steps, changed.run.epochs, changed.optimizer.learning_rate) == (7, None, 0.5)
    assert changed.run.batch_size == config.run.batch_size
    assert lay_over(config, run={"seed": 3}).run.epochs == config.run.epochs


def test_flags_are_validated_together_with_what_they_meet() -> None:
    with pytest.raises(ValidationError) as caught:
        lay_over(small_data("digits"), run={"batch_size": 7}, augmentation={"mixup": 0.2})
    assert "batch_size 7 is odd, but mixup and cutmix pair images" in explain(caught.value)


def test_json_round_trip() -> None:
    config = lay_over(small_data("digits"), run={"time": "5m"})
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("kind", [TrainConfig, RunConfig, OptimizerConfig])
def test_every_public_class_attribute_is_a_field(kind: type[TrainConfig]) -> None:
    assert {name for name in kind.__annotations__ if not name.startswith("_")} == set(kind.model_fields)


@pytest.mark.parametrize("kind", [RunConfig, OptimizerConfig])
def test_every_flag_has_its_help(kind: type[RunConfig]) -> None:
    assert all(field.description for field in kind.model_fields.values())
