"""The attention block's other kinds, for comparison: a bias after the softmax, local windows, linear attention.

The paper weighs windows and linear attention against down-sampling as ways to afford attention, and drops both
(section 2.2). All have the layers of `RelativeAttention`, so weights can be carried from kind to kind.

Shapes: B batch, N = H * W tokens, W windows, n tokens of a window, h heads, d channels of a head, C = h * d.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from coatnet.model.attention import Grid, RelativeAttention, RelativeBias
from coatnet.model.config import CoAtNetConfig


def create_attention(config: CoAtNetConfig, *, input_width: int, width: int, grid: Grid) -> nn.Module:
    """The attention layer of a config: `(B, N, input_width)` tokens and their grid -> `(B, N, width)`.

    Args:
        config: the network's choices.
        input_width: channels in.
        width: channels out.
        grid: H and W of the tokens at the config's image size.
    """
    layers = {"input_width": input_width, "width": width, "head_size": config.head_size}
    if config.attention == "linear":
        return LinearAttention(**layers)
    table = config.attention_grid(grid) if config.relative_attention else None
    if config.attention == "window":
        return WindowAttention(**layers, window=config.attention_grid(grid), bias=table, position=config.bias_position)
    if config.bias_position == "after":
        return PostBiasAttention(**layers, bias=table)
    return RelativeAttention(**layers, grid=table)


class Attention(nn.Module, ABC):
    """Projections of multi-head attention around `mix`.

    Args:
        input_width: channels in.
        width: channels out; also of queries, keys and values.
        head_size: channels of a head.
    """

    def __init__(self, *, input_width: int, width: int, head_size: int) -> None:
        super().__init__()
        self.num_heads, self.head_size = width // head_size, head_size
        self.query_key_value = nn.Linear(input_width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, grid: Grid) -> Tensor:
        """Args: x_BNC: `(B, N, input_width)`; grid: H and W with H * W = N. Returns: `(B, N, width)`."""
        num_samples, num_tokens, _ = x_BNC.shape
        projected = self.query_key_value(x_BNC).view(num_samples, num_tokens, 3, self.num_heads, self.head_size)
        qkv_3BhNd = projected.permute(2, 0, 3, 1, 4)
        return self.output(self.mix(qkv_3BhNd, grid).transpose(1, 2).flatten(2))

    @abstractmethod
    def mix(self, qkv_3BhNd: Tensor, grid: Grid) -> Tensor:
        """Args: qkv_3BhNd: queries, keys and values; grid: H and W. Returns: `(B, h, N, d)`."""


class PostBiasAttention(Attention):
    """Global attention with the relative bias added to the weights after the softmax (y^post of section 2.1).

    Args:
        input_width: channels in.
        width: channels out.
        head_size: channels of a head.
        bias: the grid of the relative table.
    """

    def __init__(self, *, input_width: int, width: int, head_size: int, bias: Grid | None) -> None:
        super().__init__(input_width=input_width, width=width, head_size=head_size)
        assert bias is not None
        self.relative_bias = RelativeBias(self.num_heads, bias)

    def mix(self, qkv_3BhNd: Tensor, grid: Grid) -> Tensor:
        """Every token with every other."""
        q_BhNd, k_BhNd, v_BhNd = qkv_3BhNd
        weights_BhNN = _weights(q_BhNd, k_BhNd, None)
        return (weights_BhNN + self.relative_bias(grid, weights_BhNN.dtype)) @ v_BhNd


class WindowAttention(Attention):
    """Attention inside windows of the map, which do not overlap and are not shifted: the paper's local attention.

    A map that is no multiple of the window is filled up on the right and below; what fills is never attended to.

    Args:
        input_width: channels in.
        width: channels out.
        head_size: channels of a head.
        window: height and width of a window, tokens.
        bias: the grid of the relative table, that of a window; None for attention without it.
        position: of the bias: before or after the softmax.
    """

    def __init__(  # noqa: PLR0913 (keyword-only)
        self, *, input_width: int, width: int, head_size: int, window: Grid, bias: Grid | None, position: str
    ) -> None:
        super().__init__(input_width=input_width, width=width, head_size=head_size)
        self.window = window
        self.relative_bias = RelativeBias(self.num_heads, bias) if bias else None
        self.position = position

    def mix(self, qkv_3BhNd: Tensor, grid: Grid) -> Tensor:
        """Every token with those of its window."""
        (height, width), (window_height, window_width) = grid, self.window
        filled = (height + -height % window_height, width + -width % window_width)
        fill = (0, 0, 0, filled[1] - width, 0, filled[0] - height)
        q, k, v = (self._windows(functional.pad(part.unflatten(2, grid), fill)) for part in qkv_3BhNd)
        allowed = None
        if filled != grid:
            inside_HW = functional.pad(torch.ones(grid, dtype=torch.bool, device=q.device), fill[2:])
            allowed = self._windows(inside_HW[None, None, :, :, None]).squeeze(-1).unsqueeze(-2)
        bias = self.relative_bias(self.window, q.dtype) if self.relative_bias else None
        if bias is not None and self.position == "after":
            mixed_BhWnd = (_weights(q, k, None, allowed) + bias[:, None]) @ v
        else:
            mixed_BhWnd = _weights(q, k, None if bias is None else bias[:, None], allowed) @ v
        return self._map(mixed_BhWnd, filled)[:, :, :height, :width].flatten(2, 3)

    def _windows(self, x_BhHWd: Tensor) -> Tensor:
        """`(B, h, H, W, d)` -> `(B, h, windows, n, d)`."""
        num_samples, num_heads, height, width, size = x_BhHWd.shape
        down, across = self.window
        parts = x_BhHWd.reshape(num_samples, num_heads, height // down, down, width // across, across, size)
        return parts.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def _map(self, x_BhWnd: Tensor, grid: Grid) -> Tensor:
        """The inverse of `_windows`."""
        num_samples, num_heads, _, _, size = x_BhWnd.shape
        (height, width), (down, across) = grid, self.window
        parts = x_BhWnd.reshape(num_samples, num_heads, height // down, width // across, down, across, size)
        return parts.transpose(3, 4).reshape(num_samples, num_heads, height, width, size)


class LinearAttention(Attention):
    """Global attention without a softmax, whose cost is linear in the tokens: the weight of a pair is the product of
    elu(q) + 1 and elu(k) + 1, divided by their sum (Katharopoulos et al., arXiv 2006.16236, Eq. 5 to 7)."""

    def mix(self, qkv_3BhNd: Tensor, grid: Grid) -> Tensor:
        """Every token with every other, through one summary of all."""
        q_BhNd, k_BhNd, v_BhNd = qkv_3BhNd
        q_BhNd, k_BhNd = functional.elu(q_BhNd) + 1, functional.elu(k_BhNd) + 1
        # The mean instead of the sum of keys and values: the same quotient, and numbers that half precision can hold.
        num_tokens = grid[0] * grid[1]
        summary_Bhdd = (k_BhNd / num_tokens).transpose(-1, -2) @ v_BhNd
        total_BhN1 = (q_BhNd * k_BhNd.mean(2, keepdim=True)).sum(-1, keepdim=True)
        return (q_BhNd @ summary_Bhdd) / total_BhN1


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, allowed: Tensor | None = None) -> Tensor:
    """Softmax(q k^T / sqrt(d) + bias) over the keys that are allowed, `(..., n, n)`."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    return logits.softmax(-1, dtype=q.dtype)
