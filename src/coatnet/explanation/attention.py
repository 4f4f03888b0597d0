"""Attention of a transformer block taken apart, as only relative attention allows (paper Eq. 3, y^pre).

The logit of query i and key j is w_{i-j} + q_i k_j / sqrt(d). The first part is static: the learned bias of the offset,
the same in every image and at every place. The second adapts to the input. Softmax of their sum weighs the values.

Shapes: h heads, d channels of a head, H height, W width, N = H * W tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coatnet.explanation.record import attention_layers
from coatnet.model.attention import Grid, RelativeAttention, relative_index, resize_table
from coatnet.model.coatnet import CoAtNet

Floats = NDArray[np.float32]
RESIDUAL_SHARE = 0.5
"""Share of a token that passes a block unmixed in rollout (Abnar and Zuidema 2020, section 3: 0.5 W + 0.5 I)."""


@dataclass(frozen=True, eq=False)
class AttentionParts:
    """What one query attends to, and why. Each array is `(h, H, W)` float32 over the keys."""

    token: Grid
    """Row and column of the query in the block's grid."""
    static: Floats
    """The learned bias of each offset: a window of the head's table."""
    adaptive: Floats
    """q k / sqrt(d): how well the key fits the query in this image."""
    whole: Floats
    """Softmax of static + adaptive: the weights of the values, which add up to 1 for each head."""


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """The attention of one transformer block in one image: small arrays, from which the parts of any query are made."""

    name: str
    """S3.0 is the first block of S3."""
    grid: Grid
    """H and W of the tokens."""
    query: Floats
    """`(h, N, d)`."""
    key: Floats
    """`(h, N, d)`."""
    value: Floats
    """`(h, N, d)`."""
    table: Floats
    """`(h, 2H-1, 2W-1)`: the bias of each offset, query minus key, at this grid; zeros without relative attention."""

    @property
    def bias_map(self) -> Floats:
        """The table with the query in its middle: what lies right of it and below is the bias of keys there."""
        return self.table[:, ::-1, ::-1]  # the table counts query minus key, a map key minus query

    def token_at(self, row: float, column: float) -> Grid:
        """The token that a place belongs to.

        Args:
            row: from the top, as a fraction of the height, 0 up to but not including 1.
            column: from the left, as a fraction of the width.
        """
        return int(row * self.grid[0]), int(column * self.grid[1])

    def parts(self, token: Grid) -> AttentionParts:
        """What a query attends to.

        Args:
            token: its row and column in `grid`.
        """
        height, width = self.grid
        row, column = token
        assert 0 <= row < height, token
        assert 0 <= column < width, token
        query_hd = self.query[:, row * width + column]
        adaptive_hN = np.einsum("hd,hnd->hn", query_hd, self.key) * query_hd.shape[-1] ** -0.5
        adaptive_hHW = adaptive_hN.reshape(-1, height, width)
        # Key (k, l) has the offset (row - k, column - l), which stands H-1 and W-1 further in the table.
        static_hHW = self.table[:, row : row + height, column : column + width][:, ::-1, ::-1]
        whole_hHW = softmax((static_hHW + adaptive_hHW).reshape(-1, height * width)).reshape(-1, height, width)
        return AttentionParts(token, np.ascontiguousarray(static_hHW), adaptive_hHW, whole_hHW)

    def weights(self) -> Floats:
        """Softmax of static + adaptive for every query: `(h, N, N)`, query then key."""
        adaptive_hNN = self.query @ self.key.transpose(0, 2, 1) * self.query.shape[-1] ** -0.5
        return softmax(self._static() + adaptive_hNN)

    def static_shares(self) -> Floats:
        """How much of what tells keys apart is static: its variance over the keys of a query, as a share of the two
        parts' variances, averaged over the queries. `(h,)`, 0 to 1; 0 if the head does not tell keys apart at all."""
        adaptive_hNN = self.query @ self.key.transpose(0, 2, 1) * self.query.shape[-1] ** -0.5
        static_hN, adaptive_hN = self._static().var(-1), adaptive_hNN.var(-1)
        both_hN = static_hN + adaptive_hN
        shares_hN = np.divide(static_hN, both_hN, out=np.zeros_like(both_hN), where=both_hN > 0)
        shares_h: Floats = shares_hN.mean(-1)
        return shares_h

    def _static(self) -> Floats:
        """The bias of every pair, `(h, N, N)`."""
        return self.table.reshape(len(self.table), -1)[:, relative_index(self.grid).numpy()]


def block_attention(name: str, layer: RelativeAttention, tokens_BNC: Tensor, grid: Grid) -> BlockAttention:
    """What one layer computed for the first image of a batch, from what it was given."""
    with torch.no_grad():
        projected = layer.query_key_value(tokens_BNC[:1]).unflatten(-1, (3, layer.num_heads, -1))
        query, key, value = (part.float().cpu().numpy() for part in projected[0].permute(1, 2, 0, 3).unbind(0))
    return BlockAttention(name, grid, query, key, value, table_of(layer, grid))


def table_of(layer: RelativeAttention, grid: Grid) -> Floats:
    """The bias of each offset, query minus key, at a grid: `(h, 2H-1, 2W-1)`; zeros without relative attention."""
    if layer.relative_bias is None:
        return np.zeros((layer.num_heads, 2 * grid[0] - 1, 2 * grid[1] - 1), np.float32)
    table: Floats = resize_table(layer.relative_bias.table.detach(), grid).float().cpu().numpy()
    return table


def bias_maps(model: CoAtNet) -> dict[str, Floats]:
    """The learned tables as maps, one for each head of each block, at the size they were trained at.

    Returns:
        By the name of the block `(h, 2H-1, 2W-1)`. The query stands in the middle; what lies right of it and below is
        the bias of keys right of it and below. Blocks without relative attention are left out.
    """
    return {
        # The table counts query minus key, a map shows key minus query.
        name: table_of(layer, layer.relative_bias.grid)[:, ::-1, ::-1]
        for name, layer in attention_layers(model)
        if layer.relative_bias is not None
    }


def rollout(blocks: Sequence[BlockAttention]) -> Floats:
    """How much of each place of the first block's grid reaches the pooled output, through all blocks: attention with
    its bias, averaged over the heads, half of each token passing unmixed (Abnar and Zuidema 2020). Where the grid is
    halved, a token stands for the mean of the up to four that were pooled.

    Args:
        blocks: at least one, in the order of the network.

    Returns:
        `(H, W)` of the first block, adds up to 1. It knows of no class.
    """
    grid = blocks[0].grid
    flow_NN = np.eye(grid[0] * grid[1], dtype=np.float64)
    for block in blocks:
        flow_NN = pooling(grid, block.grid) @ flow_NN
        grid = block.grid
        mixed_NN = block.weights().mean(0)
        flow_NN = RESIDUAL_SHARE * flow_NN + (1 - RESIDUAL_SHARE) * mixed_NN @ flow_NN
    found: Floats = flow_NN.mean(0).reshape(blocks[0].grid).astype(np.float32)
    return found


def pooling(before: Grid, after: Grid) -> NDArray[np.float64]:
    """The mean over the tokens of `before` that a token of `after` was pooled from, as a matrix (N after, N before)."""
    rows, columns = (
        (np.arange(new)[:, None] == np.arange(old)[None, :] // (-(-old // new))).astype(np.float64)
        for old, new in zip(before, after, strict=True)
    )
    matrix = np.kron(rows, columns)
    averaged: NDArray[np.float64] = matrix / matrix.sum(1, keepdims=True)
    return averaged


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Floats = powers / powers.sum(-1, keepdims=True)
    return shares
