"""Parameters and multiply-adds of a config, counted from its numbers alone: no network is built, no torch imported.
Only a guest is built to count it, on torch's meta device.

Multiply-adds are those of convolutions, dense layers and both products of attention (QK^T and AV). Element-wise work is
not counted; the paper's tables seem to count some of it, they print 1 to 3.5 % more.
"""

from __future__ import annotations

from typing import NamedTuple

from coatnet.model.config import CoAtNetConfig, Stage
from coatnet.model.guests import GuestConfig, guest_size

Grid = tuple[int, int]


class Size(NamedTuple):
    """Cost of a part of the network."""

    parameters: int
    """Trainable numbers; running statistics are not counted."""
    multiply_adds: int
    """For one image."""

    def __add__(self, other: object) -> Size:
        """The two parts together."""
        assert isinstance(other, Size)
        return Size(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


def model_size(config: CoAtNetConfig | GuestConfig, height: int | None = None, width: int | None = None) -> Size:
    """Parameters, and multiply-adds for one image.

    Args:
        config: the network.
        height: of the image, pixels; the config's image size if not given.
        width: of the image, pixels; as `height` if not given.
    """
    if isinstance(config, GuestConfig):
        height = height or config.image_size
        return Size(*guest_size(config, height, width or height))
    total = Size(0, 0)
    for part in part_sizes(config, height, width).values():
        total = total + part
    return total


def part_sizes(config: CoAtNetConfig, height: int | None = None, width: int | None = None) -> dict[str, Size]:
    """The size of each part by name: "S0", "S1", ..., "head". A mixed stage is one part."""
    height = height or config.image_size
    grids = config.grids(height, width or height)
    trained_grids = config.grids(config.image_size, config.image_size)
    parts = {"S0": _stem(config, grids[0])}
    input_width, name = config.stem_width, "S0"
    for index, stage in enumerate(config.stages):
        if not stage.continues:
            name = f"S{len(parts)}"
        size = _stage(config, stage, input_width, (grids[index], grids[index + 1], trained_grids[index + 1]))
        parts[name] = parts.get(name, Size(0, 0)) + size
        input_width = stage.width
    parts["head"] = _head(config)
    return parts


def further_block_sizes(config: CoAtNetConfig) -> tuple[Size, ...]:
    """What one more block costs in each of `config.stages`: sizes are linear in depths."""
    grids = config.grids(config.image_size, config.image_size)[1:]
    stages = zip(config.stages, grids, strict=True)
    return tuple(_block(config, stage, stage.width, (grid, grid, grid)) for stage, grid in stages)


def _tokens(grid: Grid) -> int:
    return grid[0] * grid[1]


def _dense(inputs: int, outputs: int, positions: int, bias: bool = True) -> Size:
    """A dense layer or 1x1 convolution at `positions` places."""
    return Size(inputs * outputs + (outputs if bias else 0), inputs * outputs * positions)


def _norm(width: int) -> Size:
    return Size(2 * width, 0)


def _stem(config: CoAtNetConfig, grid: Grid) -> Size:
    width, positions = config.stem_width, _tokens(grid)
    bias = width if config.stem_bias else 0
    kernel = config.stem_stride if config.stem == "patch" else 3
    first = config.input_channels * kernel**2 * width
    size = Size(first + bias, first * positions)
    if config.stem == "patch":
        return size
    return size + _norm(width) + Size(9 * width**2 + bias, 9 * width**2 * positions)


def _head(config: CoAtNetConfig) -> Size:
    width, hidden = config.stages[-1].width, config.head_hidden_width
    size = _norm(width) + _dense(hidden or width, config.num_classes, 1)
    return size + _dense(width, hidden, 1) if hidden else size


def _stage(config: CoAtNetConfig, stage: Stage, input_width: int, grids: tuple[Grid, Grid, Grid]) -> Size:
    """Args: grids: before the stage, after it, and after it at the size of the relative tables."""
    before, after, trained = grids
    first = _block(config, stage, input_width, (before, after, trained))
    other = _block(config, stage, stage.width, (after, after, trained))
    others = stage.depth - 1
    return first + Size(others * other.parameters, others * other.multiply_adds)


def _block(config: CoAtNetConfig, stage: Stage, input_width: int, grids: tuple[Grid, Grid, Grid]) -> Size:
    before, after, trained = grids
    size = _dense(input_width, stage.width, _tokens(after)) if input_width != stage.width else Size(0, 0)
    if stage.block == "C":
        return size + _mbconv(config, input_width, stage.width, (before, after))
    return size + _transformer(config, input_width, stage.width, (after, trained))


def _mbconv(config: CoAtNetConfig, width_in: int, width: int, grids: tuple[Grid, Grid]) -> Size:
    before, after = grids
    inner = config.inner_width(width)
    expanded = after if config.stride_location == "expand" else before
    size = _norm(width_in) + _dense(width_in, inner, _tokens(expanded), bias=False) + _norm(inner)
    size = size + Size(9 * inner, 9 * inner * _tokens(after)) + _norm(inner)
    bottleneck = config.squeeze_width(width)
    if bottleneck:
        size = size + _dense(inner, bottleneck, 1) + _dense(bottleneck, inner, 1)
    return size + _dense(inner, width, _tokens(after))


def _transformer(config: CoAtNetConfig, width_in: int, width: int, grids: tuple[Grid, Grid]) -> Size:
    grid, trained = grids
    positions, inner = _tokens(grid), config.inner_width(width)
    size = _norm(width_in) + _dense(width_in, 3 * width, positions) + _dense(width, width, positions)
    size = size + Size(0, 2 * width * _pairs(config, grid, config.attention_grid(trained)))
    if config.relative_attention:
        height, breadth = config.attention_grid(trained)
        size = size + Size(width // config.head_size * (2 * height - 1) * (2 * breadth - 1), 0)
    return size + _norm(width) + _dense(width, inner, positions) + _dense(inner, width, positions)


def _pairs(config: CoAtNetConfig, grid: Grid, window: Grid) -> int:
    """Products of two vectors of a head that each half of attention takes, over the tokens of a map."""
    if config.attention == "linear":
        return _tokens(grid) * config.head_size
    if config.attention == "global":
        return _tokens(grid) ** 2
    return -(-grid[0] // window[0]) * -(-grid[1] // window[1]) * _tokens(window) ** 2
