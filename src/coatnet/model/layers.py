"""The layers of a network in the order of the forward pass: what fine-tuning slows down or freezes block by block."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet

_BODY = re.compile(r"blocks|stages|layers|features|layer\d+|transformer")
"""What timm's networks, and at the end vit-pytorch's, call the parts that hold their blocks."""


def ordered_layers(model: nn.Module) -> list[nn.Module]:
    """Stem, each block, head; every parameter of the model is in exactly one of them.

    Raises:
        ConfigError: a guest whose blocks are not where timm's networks have them.
    """
    if isinstance(model, CoAtNet):
        blocks = [block for stage in model.stages for block in stage.children()]
        return [model.stem, *blocks, model.head]
    parts = list(model.named_children())
    body = [index for index, (name, _) in enumerate(parts) if _BODY.fullmatch(name)]
    if not body:
        raise ConfigError(
            f"the blocks of a {type(model).__name__} are not known", "leave --layer-decay and --freeze out"
        )
    blocks = [block for index in body for block in _blocks(parts[index][1])]
    head = nn.ModuleList(part for _, part in parts[body[-1] + 1 :])
    stem = nn.ModuleList(part for index, (_, part) in enumerate(parts[: body[-1]]) if index not in body)
    layers = [stem, *blocks, head]
    held = {parameter for layer in layers for parameter in layer.parameters()}
    # What hangs on the network itself or on a stage: positions, class tokens.
    stem.loose = nn.ParameterList(parameter for parameter in model.parameters() if parameter not in held)
    return [layer for layer in layers if any(True for _ in layer.parameters())]


def _blocks(part: nn.Module) -> Iterator[nn.Module]:
    """The blocks in a part of the body; what down-samples before a stage's blocks goes with the first of them."""
    if isinstance(part, nn.Sequential | nn.ModuleList):
        for child in part.children():
            yield from _blocks(child)
    elif isinstance(blocks := getattr(part, "blocks", None), nn.Sequential | nn.ModuleList):
        first, *others = list(_blocks(blocks)) or [nn.ModuleList()]
        yield nn.ModuleList([*(child for name, child in part.named_children() if name != "blocks"), first])
        yield from others
    elif isinstance(layers := getattr(part, "layers", None), nn.ModuleList) and len([*part.children()]) == 1:
        yield from layers  # vit-pytorch's transformer
    else:
        yield part
