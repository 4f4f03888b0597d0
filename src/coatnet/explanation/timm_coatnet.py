"""The attention of timm's own CoAtNets, taken apart as that of ours (`attention.py`).

Their bias is learned in three ways: as a flat table, as the table of the paper, or by a small network from the offset.
Each gives a bias of pairs that depends on nothing but the offset, from which the table is read back.

Shapes: h heads, d channels of a head, H height, W width, N = H * W tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from coatnet.explanation.attention import BlockAttention, Floats
from coatnet.model.attention import Grid, relative_index

if TYPE_CHECKING:
    from timm.models.maxxvit import Attention2d


def timm_attention_layers(model: nn.Module) -> Iterator[tuple[str, Attention2d]]:
    """Name and attention layer of each block with attention over the whole map, named as in ours: S3.0 is the first of
    S3. None of a network other than timm's CoAtNets: MaxViT, of the same class, attends within windows and grids."""
    from timm.models.maxxvit import MaxxVit, TransformerBlock2d

    if not isinstance(model, MaxxVit):
        return
    for name, block in model.named_modules():
        if isinstance(block, TransformerBlock2d):
            _, stage, _, index = name.split(".")  # stages.2.blocks.0
            yield f"S{int(stage) + 1}.{index}", block.attn


def timm_block_attention(name: str, layer: Attention2d, map_BCHW: Tensor) -> BlockAttention:
    """What one layer computed for the first image of a batch, from what it was given."""
    grid = (map_BCHW.shape[2], map_BCHW.shape[3])
    with torch.no_grad():
        projected = layer.qkv(map_BCHW[:1]).view(layer.num_heads, 3, layer.dim_head, -1)
        query, key, value = (part.float().cpu().numpy() for part in projected.permute(1, 0, 3, 2))
        num_tokens = grid[0] * grid[1]
        bias = torch.zeros(layer.num_heads, num_tokens, num_tokens)
        if layer.rel_pos is not None:
            bias = layer.rel_pos.get_bias().view_as(bias).float().cpu()
    return BlockAttention(name, grid, query, key, value, table_of_pairs(bias.numpy(), grid))


def table_of_pairs(bias_hNN: Floats, grid: Grid) -> Floats:
    """The table `(h, 2H-1, 2W-1)` that gives a bias of pairs which depends on their offset only."""
    height, width = grid
    table_hO = np.zeros((len(bias_hNN), (2 * height - 1) * (2 * width - 1)), np.float32)
    table_hO[:, relative_index(grid).numpy()] = bias_hNN
    return table_hO.reshape(-1, 2 * height - 1, 2 * width - 1)
