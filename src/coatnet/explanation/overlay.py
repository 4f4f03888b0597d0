"""Heat maps and attention maps as pictures: colours, transparent layers, overlays and tiles. NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.explanation.attention import AttentionParts
from coatnet.explanation.explain import HeatMap
from coatnet.explanation.faithfulness import resized

Pixels = NDArray[np.uint8]
CLIPPED = 99
"""Percentile of the strengths that gets the strongest colour: integrated gradients have single pixels far above the
rest, which would leave all others pale."""
OPACITY = 0.75
"""Of the strongest colour of an overlay, so that the image can still be seen below it."""
SHORTER_SIDE = 256
"""Small images are enlarged to about this many pixels, so that they can be looked at."""
TILE = 72
"""Least side of a tile in pixels."""
GAP = 12
"""Pixels between tiles."""
QUERY = (0, 255, 0)
"""Mark of the query: a colour that neither scale has."""


def strengths(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values scaled to -1..1, 0 staying 0."""
    largest = float(np.percentile(np.abs(values), CLIPPED)) or float(np.abs(values).max())
    scaled: NDArray[np.float32] = np.clip(values / (largest or 1.0), -1, 1)
    return scaled


def colours(strength: NDArray[np.float32], signed: bool) -> Pixels:
    """Strengths as colours, `(..., 3)`: black through red to yellow from 0 to 1; signed, blue through white to red from
    -1 to 1."""
    import matplotlib

    shares = (strength + 1) / 2 if signed else strength
    found: Pixels = matplotlib.colormaps["RdBu_r" if signed else "inferno"](shares, bytes=True)[..., :3]
    return found


def heat_layer(heat_map: HeatMap, size: tuple[int, int]) -> Pixels:
    """A layer to lay over the image: strong where the map is hot, transparent where it is cold.

    Args:
        heat_map: of any resolution.
        size: height and width of the layer.

    Returns:
        (H, W, 4) uint8 RGBA, alpha not multiplied in.
    """
    strength = strengths(resized(heat_map.values, size))
    signed = bool(heat_map.values.min() < 0)
    alpha = np.rint(255 * np.abs(strength)).astype(np.uint8)
    return np.dstack([colours(strength, signed), alpha])


def overlay(image: Pixels, heat_map: HeatMap, opacity: float = OPACITY) -> Pixels:
    """The image with a heat map over it.

    Args:
        image: (H, W, 3), enlarged if it is small.
        heat_map: of that image.
        opacity: of the hottest places, 0 to 1.

    Returns:
        (H', W', 3) uint8.
    """
    picture = enlarged(image)
    layer = heat_layer(heat_map, (picture.shape[0], picture.shape[1]))
    share = opacity * layer[..., 3:] / 255
    # Grey below, so that the colours are those of the map alone.
    grey = picture.mean(-1, keepdims=True)
    blended: Pixels = np.rint((1 - share) * grey + share * layer[..., :3]).astype(np.uint8)
    return blended


def enlarged(image: Pixels, least: int = SHORTER_SIDE) -> Pixels:
    """A small image with each pixel a square, so that its shorter side has about `least` pixels or more."""
    factor = max(1, round(least / min(image.shape[:2])))
    found: Pixels = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return found


def attention_tiles(parts: AttentionParts) -> Pixels:
    """The parts of a query's attention: rows static, adaptive and whole; a column for each head; the query is marked.

    Static and adaptive have a scale each, the same for all heads: blue below and red above the mean over the keys,
    which softmax does not see. The weights have a scale for each head.
    """
    centred = [part - part.mean((1, 2), keepdims=True) for part in (parts.static, parts.adaptive)]
    weights = parts.whole / parts.whole.max((1, 2), keepdims=True)
    rows = [*(colours(strengths(part), signed=True) for part in centred), colours(weights, signed=False)]
    return tiled([[_marked(tile, parts.token) for tile in row] for row in rows])


def bias_tiles(maps_hHW: NDArray[np.float32]) -> Pixels:
    """The learned bias of each head as a map around the query, which is marked; all heads on one scale."""
    centred = maps_hHW - maps_hHW.mean((1, 2), keepdims=True)
    height, width = maps_hHW.shape[1:]
    tiles = colours(strengths(centred), signed=True)
    return tiled([[_marked(tile, (height // 2, width // 2)) for tile in tiles]])


def tiled(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Pictures of one size in rows, `(H, W, 4)`: transparent between them, for pages in light and dark."""
    margin = ((0, GAP), (0, GAP), (0, 0))
    padded = [
        [np.pad(np.dstack([tile, np.full(tile.shape[:2], 255, np.uint8)]), margin) for tile in row] for row in rows
    ]
    return np.vstack([np.hstack(row) for row in padded])[:-GAP, :-GAP]


def write_png(path: Path, image: Pixels) -> None:
    """Write a picture; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image)).save(path, "PNG")


def _marked(tile: Pixels, token: tuple[int, int]) -> Pixels:
    """The tile enlarged, with a dot in the middle of the token."""
    large = enlarged(tile, TILE)
    side = large.shape[0] // tile.shape[0]
    row, column = (int((place + 0.5) * side) for place in token)
    reach = side // 6
    large[row - reach : row + reach + 1, column - reach : column + reach + 1] = QUERY
    return large
