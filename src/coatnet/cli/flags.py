"""The flags of `coatnet train`: the fields of the configs, with their docstrings as help."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Group, Parameter
from pydantic import PositiveInt, field_validator

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.sources import DataConfig, stored_path
from coatnet.frozen import Frozen
from coatnet.model.config import CoAtNetConfig
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig, lay_over
from coatnet.training.recipes import small_data


def _same(config: type[Frozen], name: str) -> Any:
    """Default, bounds and help of a field that is declared again for the sake of its flag."""
    return config.model_fields[name]


# One word on the command line, as 0.08,1; the config splits it.
Range = Annotated[tuple[float, float], Parameter(n_tokens=1, metavar="MIN,MAX")]


class DataFlags(DataConfig):
    """DataConfig less the path, which is an argument."""

    path: Annotated[str, Parameter(parse=False)] = ""


class AugmentationFlags(AugmentationConfig):
    """AugmentationConfig with ranges in one word."""

    crop_scale: Range = _same(AugmentationConfig, "crop_scale")
    crop_aspect: Range = _same(AugmentationConfig, "crop_aspect")
    zoom: Range = _same(AugmentationConfig, "zoom")

    @field_validator("crop_scale", "crop_aspect", "zoom", mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        return ",".join(value) if isinstance(value, list) else value


class RunFlags(RunConfig):
    """RunConfig; the batch size, which the recipe chooses, has a short name."""

    time: Annotated[float | None, Parameter(metavar="DURATION")] = _same(RunConfig, "time")
    batch_size: Annotated[PositiveInt, Parameter(alias="--batch", show_default=False)] = _same(RunConfig, "batch_size")


class ModelFlags(Frozen):
    """What a run may change in a member."""

    stochastic_depth: float = _same(CoAtNetConfig, "stochastic_depth")


# What the recipe chooses shows no default: it depends on the data.
ModelGroup = Annotated[
    ModelFlags | None,
    Parameter(name="*", group=Group("Model (unless given, the recipe chooses)", sort_key=3), show_default=False),
]
DataGroup = Annotated[DataFlags | None, Parameter(name="*", group=Group("Data", sort_key=2))]
RunGroup = Annotated[RunFlags | None, Parameter(name="*", group=Group("Length, pace and machine", sort_key=1))]
OptimizerGroup = Annotated[
    OptimizerConfig | None,
    Parameter(name="*", group=Group("Optimizer (unless given, the recipe chooses)", sort_key=3), show_default=False),
]
AugmentationGroup = Annotated[
    AugmentationFlags | None,
    Parameter(name="*", group=Group("Augmentation (unless given, the recipe chooses)", sort_key=4), show_default=False),
]


def given(flags: Frozen | None) -> dict[str, Any]:
    """The fields that the user set."""
    if flags is None:
        return {}
    return {name: getattr(flags, name) for name in type(flags).model_fields if name in flags.model_fields_set}


def build_config(
    data: str, flags: dict[str, dict[str, Any]], recipe: str, model: str | None = None, image_size: int | None = None
) -> TrainConfig:
    """What the recipe chooses for the data, with the values given laid over it.

    Args:
        data: path of the data, or digits.
        flags: for each part of the config, as "run", the values that the user gave.
        recipe: name of the recipe.
        model: member instead of the recipe's choice.
        image_size: pixels instead of the recipe's choice.
    """
    choose = {"small_data": small_data}[recipe]
    source = DataConfig(path=data, **flags["data"])
    chosen = choose(source, model=model, image_size=image_size, batch_size=flags["run"].get("batch_size"))
    asked = ", ".join(f"{name} {value}" for part in flags.values() for name, value in part.items())
    if asked:
        chosen = chosen.replace(choices=(*chosen.choices, f"as asked: {asked}"))
    return lay_over(chosen, **{**flags, "data": {**flags["data"], "path": stored_path(data)}})
