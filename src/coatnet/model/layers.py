"""The layers of a network in the order of the forward pass: what fine-tuning slows down or freezes block by block."""

from __future__ import annotations

from torch import nn

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet


def ordered_layers(model: nn.Module) -> list[nn.Module]:
    """Stem, each block of S1 to S4, head; every parameter of the model is in exactly one of them.

    Raises:
        ConfigError: the model is not a CoAtNet.
    """
    if isinstance(model, CoAtNet):
        blocks = [block for stage in model.stages for block in stage.children()]
        return [model.stem, *blocks, model.head]
    raise ConfigError(
        f"the layers of a {type(model).__name__} are not known, only those of a CoAtNet",
        "leave layer_decay and freeze out",
    )
