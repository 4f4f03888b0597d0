"""What a recipe says of its choices, kept true: a line whose fields were changed later tells the new values. No torch.

A line is "name: what was chosen, and why". `EXPLAINED` says which fields of the config a name stands for; a line of any
other name explains the data or where the run starts, which no later change touches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from coatnet.training.config import TrainConfig


class Explained(NamedTuple):
    """What a line stands for."""

    part: str
    """Of the config."""
    fields: tuple[str, ...]
    """Of the part, where it has them."""
    tell: Callable[[TrainConfig], str]
    """Their values in words."""


EXPLAINED = {
    "image size": Explained("preprocess", ("image_size",), lambda config: _size(config.preprocess.image_size)),
    "resize": Explained("preprocess", ("resize", "crop_fraction"), lambda config: config.preprocess.resize),
    "horizontal flip": Explained(
        "augmentation", ("horizontal_flip",), lambda config: "on" if config.augmentation.horizontal_flip else "off"
    ),
    "stochastic depth": Explained("model", ("stochastic_depth",), lambda config: f"{config.model.stochastic_depth:g}"),
    "batch": Explained("run", ("batch_size",), lambda config: f"{config.run.batch_size} images"),
    "learning rate": Explained("optimizer", ("learning_rate",), lambda config: f"{config.optimizer.learning_rate:g}"),
    "length": Explained("run", ("steps", "epochs", "time"), lambda config: _length(config)),
    "early end": Explained("run", ("patience",), lambda config: _early_end(config)),
}
RECIPE = "recipe"
"""Name of the line that stands for all that a recipe sets: with anything changed it holds but for that."""
_SET_BY_RECIPES = ("preprocess", "augmentation", "optimizer", "model")


def retell(before: TrainConfig, after: TrainConfig) -> tuple[str, ...]:
    """The lines of `before`, of which those that explain a field that is another in `after` tell its value there."""
    return tuple(_retold(line, before, after) for line in before.choices)


def _retold(line: str, before: TrainConfig, after: TrainConfig) -> str:
    name, _, _ = line.partition(": ")
    if name == RECIPE:
        return f"{line}, but for what is asked" if _differs(before, after) and not line.endswith("asked") else line
    explained = EXPLAINED.get(name)
    if explained is None:
        return line
    old, new = getattr(before, explained.part), getattr(after, explained.part)
    if all(getattr(old, field, None) == getattr(new, field, None) for field in explained.fields):
        return line
    return f"{name}: {explained.tell(after)}, as asked"


def _differs(before: TrainConfig, after: TrainConfig) -> bool:
    """Whether anything that a recipe sets was changed; of `run` what its lines explain."""
    changed = any(getattr(before, part) != getattr(after, part) for part in _SET_BY_RECIPES)
    lengths = [field for one in EXPLAINED.values() if one.part == "run" for field in one.fields]
    return changed or any(getattr(before.run, field) != getattr(after.run, field) for field in lengths)


def _size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height} x {width} px"


def _length(config: TrainConfig) -> str:
    run = config.run
    if run.time is not None:
        return f"what fits into {run.time:g} s"
    count, unit = (run.epochs, "epoch") if run.steps is None else (run.steps, "step")
    return f"{count:.15g} {unit}{'' if count == 1 else 's'}"


def _early_end(config: TrainConfig) -> str:
    patience = config.run.patience
    return "none" if patience is None else f"after {patience} evaluations without a better one; the best is kept"
