"""No line of a recipe's choices contradicts the config, whatever is laid over it."""

from pathlib import Path

import pytest

from coatnet.cli.flags import Asked, build_config
from coatnet.training import recipes
from coatnet.training.choices import EXPLAINED, RECIPE
from coatnet.training.config import TrainConfig, lay_over

NO_FIELD = {"data", "images", "model", "initial weights", "head", "preprocessing"}
"""Names of lines that explain the data, or where a run starts: no flag changes these after the recipe."""


def lines(config: TrainConfig) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in config.choices)


@pytest.fixture
def whole(image_folder: Path, tiny_classifier: Path) -> list[TrainConfig]:
    """What each recipe returns."""
    scratch = [getattr(recipes, name) for name in recipes.__all__ if name != "finetune"]
    return [recipes.finetune(str(image_folder), tiny_classifier), *(make(str(image_folder)) for make in scratch)]


def test_each_line_is_known_to_explain_fields_or_none(whole: list[TrainConfig]) -> None:
    for config in whole:
        assert set(lines(config)) <= {*EXPLAINED, RECIPE, *NO_FIELD}


CHANGES = {
    "horizontal flip": ({"augmentation": {"horizontal_flip": False}}, "off, as asked"),
    "length": ({"run": {"steps": 1}}, "1 step, as asked"),
    "batch": ({"run": {"batch_size": 6}}, "6 images, as asked"),
    "early end": ({"run": {"patience": 3}}, "after 3 evaluations without a better one; the best is kept, as asked"),
    "learning rate": ({"optimizer": {"learning_rate": 0.5}}, "0.5, as asked"),
    "stochastic depth": ({"model": {"stochastic_depth": 0.33}}, "0.33, as asked"),
    "resize": ({"preprocess": {"resize": "pad"}}, "pad, as asked"),
    "image size": ({"preprocess": {"image_size": (48, 64)}}, "48 x 64 px, as asked"),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_line_tells_what_was_asked_instead(whole: list[TrainConfig], name: str) -> None:
    changes, told = CHANGES[name]
    for config in whole:
        before, after = lines(config), lines(lay_over(config, **changes))
        if name in before:
            assert after.pop(name) == told
            assert before.pop(name) != told
        before.pop(RECIPE, None)
        recipe = after.pop(RECIPE, None)
        assert recipe is None or recipe.endswith("but for what is asked")
        assert after == before


def test_a_length_in_time_says_what_was_understood(image_folder: Path) -> None:
    flags = {"run": {"time": 5.0}, "data": {}, "model": {}, "optimizer": {}, "augmentation": {}}
    config, _ = build_config(str(image_folder), flags, Asked(init="none"))
    assert "length: what fits into 5 s, as asked" in config.choices


def test_what_explains_no_change_stays(image_folder: Path) -> None:
    config = recipes.small_data(str(image_folder))
    assert lay_over(config, run={"seed": 3}, augmentation={"mixup": 0.2}).choices == config.choices
