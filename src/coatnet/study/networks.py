"""Which networks a study compares, and what all its runs share: Study, and how it is settled. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.sources import DataConfig, open_data
from coatnet.errors import ConfigError
from coatnet.frozen import Frozen, explain
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import ModelConfig, member
from coatnet.model.size import model_size
from coatnet.study.ablations import ablations
from coatnet.study.config import StudyConfig
from coatnet.study.layouts import matched_layouts
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig
from coatnet.training.recipes import small_data


class Arm(Frozen):
    """A network that a study compares."""

    name: str
    """Of the layout, the variant or the contender."""
    kind: Literal["layout", "ablation", "contender"]
    table: str = ""
    """Of an ablation, the paper's table."""
    config: ModelConfig
    parameters: int
    """Trainable numbers."""
    multiply_adds: int
    """For one image."""


class Study(Frozen):
    """A study whose networks are settled: study.json."""

    format: Literal[1] = 1
    """Version of this file's form."""
    config: StudyConfig
    arms: tuple[Arm, ...]
    base: TrainConfig
    """What all runs share: preprocessing, classes, no augmentation, no regularization."""
    num_images: int
    """Training images there are."""
    target: TrainConfig | None = None
    """What fine-tunings share."""
    num_target_images: int = 0
    """Training images of the data that is fine-tuned on."""

    def arm(self, name: str) -> Arm:
        """The network of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def settle(config: StudyConfig) -> Study:
    """Look at the data, and find the networks.

    Raises:
        DataError: the data cannot be read.
        ConfigError: the layouts cannot have this size, or there is no such contender.
    """
    base = _plain(config, config.data)
    num_classes = len(base.class_names)
    arms = [_arm(name, "layout", network) for name, network in _layouts(config, num_classes).items()]
    if "ablations" in config.experiments:
        ablated = arms[config.layouts.index(ablated_layout(config))].config
        assert isinstance(ablated, CoAtNetConfig)
        variants = [one for one in ablations(ablated) if one.config != ablated]
        arms += [_arm(one.name, "ablation", one.config, one.table) for one in variants]
    for name in config.contenders:
        network = member(name).replace(image_size=config.image_size, num_classes=num_classes)
        arms.append(_arm(name, "contender", network))
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two networks of the study are called {twice}", "name each layout and contender once")
    return Study(
        config=config,
        arms=tuple(arms),
        base=base,
        num_images=len(open_data(config.data).train),
        target=_plain(config, config.target) if config.target else None,
        num_target_images=len(open_data(config.target).train) if config.target else 0,
    )


def _layouts(config: StudyConfig, num_classes: int) -> dict[str, CoAtNetConfig]:
    """The networks of the layouts, by name."""
    if config.budget is not None:
        found = matched_layouts(
            config.budget, config.layouts, image_size=config.image_size, num_classes=num_classes, patch=config.patch
        )
        return {one.layout: one.config for one in found}
    assert config.networks is not None
    path = Path(config.networks)
    try:
        told = {one["layout"]: one["config"] for one in json.loads(path.read_text())["layouts"]}
        own = {"num_classes": num_classes, "image_size": config.image_size}
        return {name: CoAtNetConfig.model_validate({**told[name], **own}) for name in config.layouts}
    except (OSError, ValueError, TypeError, KeyError) as error:
        told_of = explain(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"networks {path}: {told_of}", "give what coatnet study --plan --json printed") from None


def ablated_layout(config: StudyConfig) -> str:
    """The layout whose parts are changed one at a time: the paper's choice if it is there."""
    return "CCTT" if "CCTT" in config.layouts else config.layouts[-1]


def _plain(config: StudyConfig, data: DataConfig) -> TrainConfig:
    """What a recipe sees in the data, without augmentation and regularization (section 2.2)."""
    chosen = small_data(data, image_size=config.image_size, batch_size=config.batch_size)
    plain = OptimizerConfig(weight_decay=0.0)
    return chosen.replace(augmentation=AugmentationConfig(), optimizer=plain, run=RunConfig(steps=1), choices=())


def _arm(name: str, kind: Literal["layout", "ablation", "contender"], config: ModelConfig, table: str = "") -> Arm:
    size = model_size(config)
    return Arm(
        name=name, kind=kind, table=table, config=config, parameters=size.parameters, multiply_adds=size.multiply_adds
    )
