"""Every network of a layout that a budget reaches, with its size and how far it is from the paper's proportions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from coatnet.errors import ConfigError
from coatnet.frozen import explain
from coatnet.model.config import CoAtNetConfig
from coatnet.model.size import further_block_sizes, model_size

REACH, FURTHER_REACH = 1.1, 2.0
"""Networks further than this factor from what was asked are left out; and when the question is what there is near."""
VIT_BLOCKS = range(6, 37)
"""ViT_REL's blocks that are tried."""
LIKELY_WIDTH, LEAST_WIDTH = 40, 10
"""Channels per block of S3 and of ViT_REL: 27 to 77 in the paper's Table 3, 32 in DeiT-S, 64 in ViT-B. No ViT_REL is
tried that is narrower for its depth than CaiT-S36 (384 channels; arXiv 2103.17239, Table 3)."""
DEPTHS = (range(1, 4), range(1, 13), range(1, 49), range(1, 4))
"""Blocks of S1 to S4 that are tried. The paper scales those of S2 and S3: 2 to 12, and 5 to 50 (Tables 3, 7 and 12)."""
LIKELY_END_BLOCKS, LIKELY_S3_PER_S2 = 2, 2.0
"""The paper's S1 and S4 have two blocks; its S3 has 1.7 to 2.3 times as many as its S2 (Table 3)."""
WIDEST = 4096
"""Channels; the paper's widest stage has 3072 (CoAtNet-7)."""
MOST_WIDENING = 2.5
"""From stage to stage. The paper doubles (section 2.2), once 2.5 times (S3 of CoAtNet-5, Table 11)."""
WIDTH_UNIT, WIDEST_BY_UNITS = 16, 256
"""Widths of S2 to S4 are multiples of 16, from 256 on of 32, from 512 on of 64, and so on; in attention also of the
head size."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Asked(NamedTuple):
    """What size networks should have."""

    parameters: float | None
    """None where nothing was asked."""
    multiply_adds: float | None
    reach: float = REACH
    """Factor within which they are."""


class Candidates(NamedTuple):
    """K networks of one layout."""

    depths: Integers
    """`(K, 4)`: blocks of S1 to S4; for ViT `(K, 1)`."""
    widths: Integers
    """`(K, 5)`: channels of the stem and of S1 to S4; for ViT `(K, 1)`."""
    sizes: Floats
    """`(K, 2)`: parameters, multiply-adds."""
    unlikeness: Floats
    """`(K,)`: distance from the paper's proportions, in doublings."""

    def likeliest(self, size: Floats, ratios: tuple[float, float]) -> int | None:
        """The one of the likeliest proportions near a size; None if there is none.

        Args:
            size: parameters, multiply-adds.
            ratios: the factors by which any two networks near `size` may differ.
        """
        (places,) = np.nonzero((np.abs(np.log(self.sizes / size)) <= np.log(ratios) / 2).all(1))
        return int(places[self.unlikeness[places].argmin()]) if len(places) else None


def vit_candidates(patch: int, choices: Mapping[str, Any], asked: Asked) -> Candidates:
    """ViT_REL of every width and depth.

    Args:
        patch: stride of the stem, pixels.
        choices: the other fields of the config.
        asked: what their size should be.
    """
    found: list[Candidates] = []
    for width in _multiples(choices["head_size"], WIDTH_UNIT, WIDEST):
        config = build("ViT", (1,), (width,), (patch,), choices)
        depths = np.array([[depth] for depth in VIT_BLOCKS if width >= LEAST_WIDTH * depth], int).reshape(-1, 1)
        reached = _reached(config, depths, (width,), _unlike_aspect(depths[:, 0], width), asked)
        if reached is None:
            break
        found.append(reached)
    return _joined(found)


def hybrid_candidates(
    layout: str, strides: Sequence[int], stem_share: float, choices: Mapping[str, Any], asked: Asked
) -> Candidates:
    """Networks of four stages of every width and depth.

    Args:
        layout: a letter for each stage, as "CCTT".
        strides: of the stem and of each stage.
        stem_share: width of the stem, times that of S1.
        choices: the other fields of the config.
        asked: what their size should be.

    Raises:
        ConfigError: a layout of other stages, or one that cannot be.
    """
    letters = layout.replace("-", "")
    if len(letters) != len(DEPTHS):
        raise ConfigError(f"layout {layout!r:.60} has {len(letters)} stages", "write a letter for S1 to S4, or ViT")
    depths = np.array(list(itertools.product(*DEPTHS)))
    unlike_depths = np.abs(np.log2(depths[:, [0, 3]] / LIKELY_END_BLOCKS)).sum(1)
    unlike_depths += np.abs(np.log2(depths[:, 2] / depths[:, 1] / LIKELY_S3_PER_S2))
    units = [choices["head_size"] if letter == "T" else 1 for letter in letters[1:]]
    found: list[Candidates] = []
    for second, third in _middle_widths(units):
        for fourth in _multiples(units[2], third, third * MOST_WIDENING):
            stages = (second // 2, second, third, fourth)
            stem_width = max(WIDTH_UNIT, round(stages[0] * stem_share / WIDTH_UNIT) * WIDTH_UNIT)
            config = build(letters, (2, 1, 1, 1, 1), (stem_width, *stages), strides, choices)
            unlikeness = unlike_depths + _unlike_widths(stages, strides) + _unlike_aspect(depths[:, 2], third)
            reached = _reached(config, depths, (stem_width, *stages), unlikeness, asked)
            if reached is None:
                break
            found.append(reached)
    return _joined(found)


def build(
    layout: str, depths: Sequence[int], widths: Sequence[int], strides: Sequence[int], choices: Mapping[str, Any]
) -> CoAtNetConfig:
    """The config of a layout.

    Raises:
        ConfigError: a choice that does not validate.
    """
    try:
        return CoAtNetConfig.from_layout(layout, tuple(depths), tuple(widths), strides=tuple(strides), **choices)
    except ValidationError as error:
        raise ConfigError(f"model {explain(error)}", "see CoAtNetConfig for the fields and their ranges") from None


def _middle_widths(units: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Widths of S2 and S3, multiples of `units`; S1 is half as wide as S2."""
    for second in _multiples(units[0], WIDTH_UNIT, WIDEST):
        for third in _multiples(units[1], second, second * MOST_WIDENING):
            yield second, third


def _multiples(unit: int, least: int, most: float) -> Iterator[int]:
    """Widths of a stage from `least` to `most`, multiples of `unit`."""
    width = least
    while width <= min(most, WIDEST):
        step = WIDTH_UNIT * 2 ** (width // WIDEST_BY_UNITS).bit_length()
        if width % unit == 0 and width % step == 0:
            yield width
        width += WIDTH_UNIT


def _unlike_aspect(depths: Integers, width: int) -> Floats:
    return np.abs(np.log2(width / (depths * LIKELY_WIDTH)))


def _unlike_widths(widths: Sequence[int], strides: Sequence[int]) -> float:
    """The paper doubles the width in each stage; one that does not halve the map may stay as wide as the one before."""
    doublings = [math.log2(after / before) for before, after in itertools.pairwise(widths)]
    return sum(
        abs(doubling - 1) if stride == 2 else max(0.0, doubling - 1)
        for doubling, stride in zip(doublings, strides[2:], strict=True)
    )


def _reached(
    config: CoAtNetConfig, depths: Integers, widths: Sequence[int], unlikeness: Floats, asked: Asked
) -> Candidates | None:
    """The networks of some widths near the parameters that were asked for, or else near the multiply-adds; None if
    already the one with the fewest blocks is too large.

    Args:
        config: of these widths with one block in each stage.
        depths: to try.
        widths: of the config.
        unlikeness: for each of `depths`.
        asked: what their size should be.
    """
    index, wanted = next((index, wanted) for index, wanted in enumerate(asked[:2]) if wanted)
    least = model_size(config)
    if least[index] > wanted * asked.reach:
        return None
    sizes = np.array(least) + (depths - 1.0) @ np.array(further_block_sizes(config), float)
    (near,) = np.nonzero(np.abs(np.log(sizes[:, index] / wanted)) <= math.log(asked.reach))
    return Candidates(depths[near], np.tile(widths, (len(near), 1)), sizes[near], unlikeness[near])


def _joined(parts: Sequence[Candidates]) -> Candidates:
    """Raises: ConfigError: not even the narrowest network is small enough."""
    if not parts:
        raise ConfigError("not even the smallest network is so small", "ask for a larger budget")
    return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))
