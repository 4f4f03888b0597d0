"""Attention with a learned bias per head and relative offset (paper Eq. 3, y^pre, and A.1).

Shapes: B batch, N = H * W tokens, h heads, d channels of a head, C = h * d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from coatnet.model.tracing import is_exported, is_transformed

Grid = tuple[int, int]
"""Height and width of a feature map, in tokens."""


def relative_index(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Where the bias of each pair of tokens stands in the flattened table.

    Row `i * W + j` and column `k * W + l` hold the position of offset (i - k, j - l), query minus key: the paper's
    `P[i - i' + H, j - j' + W]`, counted from 0.

    Returns: `(N, N)` int64.
    """
    height, width = grid
    columns = 2 * width - 1
    rows = torch.arange(height, device=device) * columns
    places_N = (rows[:, None] + torch.arange(width, device=device)).flatten()
    # The position is linear in query and key, so one subtraction gives it; the last term makes the smallest one 0.
    return places_N[:, None] - places_N[None, :] + ((height - 1) * columns + width - 1)


def resize_table(table: Tensor, grid: Grid) -> Tensor:
    """The table for another grid: bilinear, half-pixel centres, no antialias (A.1, and the lineage's resize).

    Args:
        table: `(h, 2H-1, 2W-1)`.
        grid: the new H and W.

    Returns: `(h, 2H'-1, 2W'-1)`.
    """
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    # An exported network serves any grid, so it always resizes: at its own size that gives the table itself.
    if not is_exported() and table.shape[1:] == size:
        return table
    return functional.interpolate(table[None], size=size, mode="bilinear", align_corners=False)[0]


@torch.fx.wrap  # what depends on sizes and devices stays one call in its graphs
def spread(table_hRC: Tensor, grid: Grid) -> Tensor:
    """The bias of every pair of tokens of a grid.

    Args:
        table_hRC: `(h, 2H-1, 2W-1)`, resized if it was made for another grid.
        grid: H and W of the tokens.

    Returns: `(h, N, N)`, query then key.
    """
    num_tokens = grid[0] * grid[1]
    index_P = relative_index(grid, table_hRC.device).flatten()  # P = N * N pairs
    # index_select: a quarter of the time of table[:, index], backward too (12 heads, 14 x 14 tokens, one thread).
    return resize_table(table_hRC, grid).flatten(1).index_select(1, index_P).view(-1, num_tokens, num_tokens)


class RelativeBias(nn.Module):
    """The trainable table of one attention layer, and the bias it gives for any grid.

    The bias is computed in each forward, never kept: no key tells every way in which a table can be overwritten.
    What runs with frozen weights holds it as a constant (runtime/folding.py).

    Args:
        num_heads: heads.
        grid: the grid that the table is made for; it keeps this size whatever grids it serves.
    """

    def __init__(self, num_heads: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.zeros(num_heads, 2 * grid[0] - 1, 2 * grid[1] - 1))

    def forward(self, grid: Grid, dtype: torch.dtype) -> Tensor:
        """The bias of every pair of tokens.

        Args:
            grid: H and W of the tokens.
            dtype: of the result.

        Returns: `(h, N, N)`, query then key.
        """
        return spread(self.table, grid).to(dtype)


class RelativeAttention(nn.Module):
    """Multi-head self-attention over all tokens of a map, with relative bias.

    Args:
        input_width: channels in.
        width: channels out; also of queries, keys and values (paper 8.1).
        head_size: channels of a head.
        grid: the grid of the relative table; None for attention without it (Table 6).
    """

    def __init__(self, *, input_width: int, width: int, head_size: int, grid: Grid | None) -> None:
        super().__init__()
        self.num_heads, self.head_size = width // head_size, head_size
        self.query_key_value = nn.Linear(input_width, 3 * width)
        self.relative_bias = RelativeBias(self.num_heads, grid) if grid else None
        self.output = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, grid: Grid) -> Tensor:
        """Args: x_BNC: `(B, N, input_width)`; grid: H and W with H * W = N. Returns: `(B, N, width)`."""
        num_samples, num_tokens, _ = x_BNC.shape
        projected = self.query_key_value(x_BNC).view(num_samples, num_tokens, 3, self.num_heads, self.head_size)
        q_BhNd, k_BhNd, v_BhNd = projected.permute(2, 0, 3, 1, 4).unbind(0)
        bias_hNN = self.relative_bias(grid, q_BhNd.dtype) if self.relative_bias else None
        attended_BhNd = _attend(q_BhNd, k_BhNd, v_BhNd, bias_hNN)
        return self.output(attended_BhNd.transpose(1, 2).flatten(2))


@torch.fx.wrap
def _attend(q_BhNd: Tensor, k_BhNd: Tensor, v_BhNd: Tensor, bias_hNN: Tensor | None) -> Tensor:
    """Softmax(q k^T / sqrt(d) + bias) v, `(B, h, N, d)`."""
    trains_on_cpu = (
        bias_hNN is not None and bias_hNN.requires_grad and bias_hNN.device.type == "cpu" and not is_exported()
    )
    if is_transformed() or trains_on_cpu:
        # No fused CPU kernel gives the bias a gradient, and torch's fallback takes twice the time of these lines.
        # The kernels have neither forward-mode derivatives nor, inside torch.func, gradients of the bias.
        logits_BhNN = (q_BhNd * q_BhNd.shape[-1] ** -0.5) @ k_BhNd.transpose(-1, -2)
        if bias_hNN is not None:
            logits_BhNN = logits_BhNN + bias_hNN
        return logits_BhNN.softmax(-1, dtype=v_BhNd.dtype) @ v_BhNd
    mask_1hNN = None if bias_hNN is None else bias_hNN[None]
    return functional.scaled_dot_product_attention(q_BhNd, k_BhNd, v_BhNd, attn_mask=mask_1hNN)
