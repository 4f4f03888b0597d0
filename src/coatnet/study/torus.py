"""Maps without borders: what leaves on one side comes in on the other, so that padding hides no property."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from coatnet.model.attention import Grid, RelativeBias
from coatnet.model.attention_kinds import WindowAttention


@contextlib.contextmanager
def on_a_torus(model: nn.Module) -> Iterator[None]:
    """Close the maps of a network for a while: convolutions and pools pad with the other side, and offsets between
    tokens are counted the shorter way. Borders of windows stay, and so do TensorFlow's paddings in timm's networks and
    their own tables of positions."""
    restored = contextlib.ExitStack()
    windows = [module for module in model.modules() if isinstance(module, WindowAttention)]
    with restored:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and _pads(module.padding):
                restored.callback(setattr, module, "padding_mode", "zeros")
                module.padding_mode = "circular"
            elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and _pads(module.padding):
                restored.callback(setattr, module, "padding", module.padding)
                restored.callback(module.register_forward_pre_hook(partial(_pad, module.padding)).remove)
                module.padding = 0
            elif isinstance(module, RelativeBias) and not any(module is one.relative_bias for one in windows):
                restored.callback(delattr, module, "forward")
                module.forward = partial(_wrapped_bias, module)  # type: ignore[method-assign]
        yield


def _pads(padding: object) -> bool:
    return padding not in (0, (0, 0), "valid")


def _pad(padding: int | tuple[int, int], module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    return (functional.pad(inputs[0], (columns, columns, rows, rows), mode="circular"),)


def _wrapped_bias(bias: RelativeBias, grid: Grid, dtype: torch.dtype) -> Tensor:
    """As the bias itself, `(h, N, N)`, of offsets between -half and half of the map."""
    straight_hNN = RelativeBias.forward(bias, grid, dtype)
    # In the row of the middle token every offset is counted the shorter way: all rows are shifts of it.
    height, width = grid
    middle_hHW = straight_hNN[:, (height // 2) * width + width // 2].view(-1, height, width)
    rows = [
        middle_hHW.roll((row - height // 2, column - width // 2), (1, 2)).flatten(1)
        for row in range(height)
        for column in range(width)
    ]
    return torch.stack(rows, 1)
