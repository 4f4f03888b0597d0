"""The members of the family by name, and how to build one."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pydantic import ValidationError

from coatnet.errors import ConfigError
from coatnet.frozen import explain
from coatnet.model.config import CoAtNetConfig

if TYPE_CHECKING:
    from coatnet.model.coatnet import CoAtNet


def _member(depths: tuple[int, ...], widths: tuple[int, ...], layout: str = "CCTT", head_size: int = 32) -> CoAtNetConfig:
    return CoAtNetConfig.from_layout(layout, depths, widths, head_size=head_size)


# Tables 3, 11 and 12. CoAtNet-6's last stage is 3072 wide: Table 12 prints 2048, which gives 1.35 billion parameters
# where the paper says 1.47, and breaks its rule that the width doubles.
PAPER = {
    "coatnet_0": _member((2, 2, 3, 5, 2), (64, 96, 192, 384, 768)),
    "coatnet_1": _member((2, 2, 6, 14, 2), (64, 96, 192, 384, 768)),
    "coatnet_2": _member((2, 2, 6, 14, 2), (128, 128, 256, 512, 1024)),
    "coatnet_3": _member((2, 2, 6, 14, 2), (192, 192, 384, 768, 1536)),
    "coatnet_4": _member((2, 2, 12, 28, 2), (192, 192, 384, 768, 1536)),
    "coatnet_5": _member((2, 2, 12, 28, 2), (192, 256, 512, 1280, 2048), head_size=64),
    "coatnet_6": _member((2, 2, 4, 8, 42, 2), (192, 192, 384, 768, 1536, 3072), "C-C-CT-T", head_size=128),
    "coatnet_7": _member((2, 2, 4, 8, 42, 2), (192, 256, 512, 1024, 2048, 3072), "C-C-CT-T", head_size=128),
}
