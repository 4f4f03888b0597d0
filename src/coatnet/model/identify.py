"""Whose weights are these? A member of the family told by names, shapes and counts alone; no network is built."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from coatnet.model.family import FAMILY
from coatnet.model.size import model_size

_CLASSES = {"head.classes.weight": "coatnet", "head.fc.weight": "timm"}
"""The layer of the classes under our name and under timm's."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Identity(NamedTuple):
    """What a file of weights holds."""

    member: str
    """Name in the family."""
    form: str
    """coatnet: our names and shapes; timm: those of timm's `coatnet_N_224`."""
    num_classes: int


def identify(shapes: Mapping[str, tuple[int, ...]]) -> Identity | None:
    """The member whose weights have these names and shapes; None if it is none of ours.

    Args:
        shapes: of every tensor, by name.
    """
    layer = next((name for name in _CLASSES if name in shapes), None)
    if layer is None or len(shapes[layer]) != 2:
        return None
    num_classes = shapes[layer][0]
    count = sum(prod(shape) for name, shape in shapes.items() if not name.endswith(_STATISTICS))
    widths = shapes.get("stem.mix.weight" if _CLASSES[layer] == "coatnet" else "stem.conv2.weight", (0,))
    for name, config in FAMILY.items():
        for stem_bias in (True, False):
            same = config.replace(num_classes=num_classes, stem_bias=stem_bias)
            if widths[0] == config.stem_width and model_size(same).parameters == count:
                return Identity(name, _CLASSES[layer], num_classes)
    return None
