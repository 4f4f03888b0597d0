"""The network that a word names: a folder, a layout, a member or a guest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coatnet.classifier import Classifier
from coatnet.errors import ConfigError
from coatnet.model.config import changed
from coatnet.model.family import ModelConfig, create_model, member
from coatnet.runtime.engines import TorchEngine
from coatnet.study.layouts import VIT, matched_layouts


def open_network(word: str, budget: str, image_size: int | None) -> tuple[nn.Module, int]:
    """A network, and the size of its images in pixels.

    Args:
        word: a run or classifier folder; a layout, as "CCTT" or "ViT"; a member; a guest, as "timm/NAME". All but
            folders get fresh weights, the same each time.
        budget: size of a layout; see `parse_budget`.
        image_size: another than its own.

    Raises:
        ConfigError: none of these, or a size that it cannot have.
        ModelFileError: a folder that is no classifier.
    """
    if Path(word).exists():
        model = load_network(Path(word))
        config: Any = model.config
        return model, image_size or config.image_size
    if word == VIT or set(word) <= set("CT-"):
        network: ModelConfig = matched_layouts(budget, (word,), image_size=image_size)[0].config
    else:
        network = member(word)
        network = network if image_size is None else changed(network, {"image_size": image_size})
    torch.manual_seed(0)
    return create_model(network), network.image_size


def load_network(folder: Path) -> nn.Module:
    """The network of a run or a classifier.

    Raises:
        ConfigError: it was exported to another library.
        ModelFileError: the folder is no classifier.
    """
    engine = Classifier.load(folder, device="cpu").engine
    if not isinstance(engine, TorchEngine):
        raise ConfigError(f"{folder} holds no torch network", "take the run that it was exported from")
    return engine.model
