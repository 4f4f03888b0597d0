"""The flags of `coatnet train`: the fields of the configs, with their docstrings as help."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import Field, PositiveInt, field_validator

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.sources import DataConfig, Splits, stored_path
from coatnet.errors import ConfigError
from coatnet.frozen import Frozen
from coatnet.model.config import CoAtNetConfig
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig, lay_over
from coatnet.training.initial import AUTO, NONE, choose_initial
from coatnet.training.look import PHOTOGRAPH, OpenedData, opened
from coatnet.training.recipes import finetune, imagenet_1k, imagenet_1k_modern, imagenet_21k, jft, small_data


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


AUTO_BATCH = "auto: the recipe's batch, in micro-batches that fit into memory, found once and stored."


class RunFlags(RunConfig):
    """RunConfig; the batch size, which the recipe chooses, has a short name."""

    time: Annotated[float | None, Parameter(metavar="DURATION")] = _same(RunConfig, "time")
    batch_size: Annotated[PositiveInt | Literal["auto"], Parameter(alias="--batch", show_default=False)] = Field(  # type: ignore[assignment]
        64, description=f"{_same(RunConfig, 'batch_size').description} {AUTO_BATCH}"
    )
    accumulate: PositiveInt = _same(RunConfig, "accumulate")


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


def run_settings(run: dict[str, Any]) -> dict[str, Any]:
    """Fields of RunConfig from flags: --batch auto leaves the batch to the recipe, and micro-batches to the memory.

    Raises:
        ConfigError: --batch auto with --accumulate.
    """
    if run.get("batch_size") != "auto":
        return run
    if "accumulate" in run:
        raise ConfigError("--batch auto finds --accumulate itself", "leave one of them out")
    return {**{name: value for name, value in run.items() if name != "batch_size"}, "accumulate": "auto"}


class Asked(Frozen):
    """What the user asked of the recipe."""

    recipe: Literal["small_data", "finetune", "imagenet_1k", "imagenet_1k_modern", "imagenet_21k", "jft"] | None = None
    """How to choose what is not given: small_data from scratch, finetune with --init; default: as --init says. Those of
    the paper's pre-training, for large data and many machines: imagenet_1k, imagenet_21k, jft; imagenet_1k_modern as
    public re-trainings do it."""
    init: str = AUTO
    """First weights: a run folder, a classifier folder, published weights as timm/NAME.TAG, or a weights file
    (.safetensors, .pth) with its --model; none for random ones. auto takes published ones for photographs of 128 px and
    more in moderate numbers, if they are here or the hub answers within seconds, else random ones."""
    model: str | None = None
    """A member of the family instead of the recipe's choice; `coatnet models` lists them."""
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None
    """Size of the network's input in pixels instead of the recipe's choice: 96, or 96x128 for height x width."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if they were given."""
        return None if self.image_size is None else parse_size(self.image_size)


AskedGroup = Annotated[Asked | None, Parameter(name="*")]


def parse_size(text: str) -> tuple[int, int]:
    """ "96" or "96x128" -> height and width in pixels.

    Raises:
        ConfigError: neither.
    """
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    if not found:
        raise ConfigError(
            f"--image-size: {text!r:.60} is no size", "write 96, or 96x128 for a height of 96 and a width of 128"
        )
    return int(found[1]), int(found[2] or found[1])


_FROM_SCRATCH: dict[str, Callable[..., TrainConfig]] = {
    recipe.__name__: recipe for recipe in (small_data, imagenet_1k, imagenet_1k_modern, imagenet_21k, jft)
}


def build_config(data: str, flags: dict[str, dict[str, Any]], asked_for: Asked) -> tuple[TrainConfig, Splits]:
    """What the recipe chooses for the data, with the values given laid over it; and the data, which it had to open.

    Args:
        data: path of the data, or digits.
        flags: for each part of the config, as "run", the values that the user gave.
        asked_for: recipe, first weights, member and image size.

    Raises:
        ConfigError: a recipe that does not go with these first weights, or an oblong size from scratch.
    """
    source = opened(DataConfig(path=data, **flags["data"]))
    init, missed = _initial(source, asked_for)
    from_scratch, size = init == NONE, asked_for.size
    if asked_for.recipe and (asked_for.recipe == "finetune") == from_scratch:
        need = "needs --init, weights to start from" if from_scratch else "trains from scratch, without --init"
        raise ConfigError(f"--recipe {asked_for.recipe} {need}", "leave --recipe out, and --init says which it is")
    common: dict[str, Any] = {"model": asked_for.model, "batch_size": flags["run"].get("batch_size")}
    if not from_scratch:
        chosen = finetune(source, init, image_size=size, **common)
    elif size is None or size[0] == size[1]:
        chosen = _FROM_SCRATCH[asked_for.recipe or "small_data"](source, image_size=size and size[0], **common)
    else:
        raise ConfigError(
            f"--image-size {asked_for.image_size}: from scratch the relative tables are made for a square",
            "give one number, train, and then go on from that run by --init with this size",
        )
    if missed:
        chosen = chosen.replace(choices=(*chosen.choices, missed))
    asked = ", ".join(f"{name} {value}" for part in flags.values() for name, value in part.items())
    if asked:
        chosen = chosen.replace(choices=(*chosen.choices, f"as asked: {asked}"))
    config = lay_over(chosen, **{**flags, "data": {**flags["data"], "path": stored_path(data)}})
    return config, source.splits


def _initial(source: OpenedData, asked_for: Asked) -> tuple[str, str]:
    """First weights, and what to say of the choice, or ""."""
    if asked_for.init != AUTO:
        return asked_for.init, ""
    if asked_for.model or asked_for.recipe in _FROM_SCRATCH or min(asked_for.size or (PHOTOGRAPH,)) < PHOTOGRAPH:
        return NONE, ""
    return choose_initial(len(source.splits.train), source.look)
