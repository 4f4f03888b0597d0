"""The network that a word names: a folder, a layout, a member or a guest."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from coatnet.classifier import Classifier
from coatnet.errors import ConfigError
from coatnet.model.config import changed
from coatnet.model.family import ModelConfig, create_model, member
from coatnet.model.guests import is_guest_name
from coatnet.runtime.engines import TorchEngine
from coatnet.study.layouts import VIT, matched_layouts

BUDGET = "coatnet_0"
"""Size of a layout unless another is asked for: that of the paper's Table 2 on ImageNet-1K."""


class NamedNetwork(NamedTuple):
    """A network, and how it is fed."""

    model: nn.Module
    image_size: tuple[int, int]
    """Height and width in pixels."""


def open_network(word: str, budget: str = BUDGET, image_size: int | None = None) -> NamedNetwork:
    """The network that a word names; all but folders get fresh weights, the same each time.

    Args:
        word: a run or classifier folder; a layout, as "CCTT" or "ViT"; a member; a guest, as "timm/NAME".
        budget: size of a layout; see `parse_budget`.
        image_size: another than its own.

    Raises:
        ConfigError: none of these, or a size that it cannot have.
        ModelFileError: a folder that is no classifier, or is not there.
    """
    path = Path(word)
    if path.exists() or (path.name != word and not is_guest_name(word)):
        loaded = load_network(path)
        return loaded if image_size is None else loaded._replace(image_size=(image_size, image_size))
    if word == VIT or set(word) <= set("CT-"):
        network: ModelConfig = matched_layouts(budget, (word,), image_size=image_size)[0].config
    else:
        network = member(word)  # what is no member is told with the nearest ones
        network = network if image_size is None else changed(network, {"image_size": image_size})
    torch.manual_seed(0)
    return NamedNetwork(create_model(network), (network.image_size, network.image_size))


def load_network(folder: Path) -> NamedNetwork:
    """The network of a run or a classifier.

    Raises:
        ConfigError: it was exported to another library.
        ModelFileError: the folder is no classifier.
    """
    classifier = Classifier.load(folder, device="cpu")
    if not isinstance(classifier.engine, TorchEngine):
        raise ConfigError(f"{folder} holds no torch network", "take the run that it was exported from")
    return NamedNetwork(classifier.engine.model, classifier.preprocess.image_size)
