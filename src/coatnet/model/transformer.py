"""The attention block of S3 and S4: relative attention, then a feed-forward part (paper Fig. 4, A.1, Eq. 4).

Shapes: B batch, C channels, H height, W width, N = H * W tokens.
"""

from __future__ import annotations

from torch import Tensor, nn

from coatnet.model.attention import Grid
from coatnet.model.attention_kinds import create_attention
from coatnet.model.config import CoAtNetConfig
from coatnet.model.mbconv import Pool, StochasticDepth, activation


class TransformerBlock(nn.Module):
    """x <- Proj(Pool(x)) + Attention(Pool(Norm(x))); x <- x + FeedForward(Norm(x)).

    Args:
        config: the network's choices.
        input_width: channels in.
        width: channels out.
        grid: tokens of the output at the config's image size.
        stride: 1 or 2.
        drop_rate: stochastic depth of each branch.
    """

    def __init__(  # noqa: PLR0913 (keyword-only: each is one property of the block)
        self,
        config: CoAtNetConfig,
        *,
        input_width: int,
        width: int,
        grid: Grid,
        stride: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = Pool(config) if stride > 1 else nn.Identity()
        self.projection = nn.Linear(input_width, width) if input_width != width else nn.Identity()
        self.attention_norm = nn.LayerNorm(input_width, eps=config.layer_norm_epsilon)
        self.attention = create_attention(config, input_width=input_width, width=width, grid=grid)
        inner = config.inner_width(width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.feed_forward = nn.Sequential(nn.Linear(width, inner), activation(config), nn.Linear(inner, width))
        self.attention_depth = StochasticDepth(drop_rate)
        self.feed_forward_depth = StochasticDepth(drop_rate)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, input_width)`. Returns: `(B, ceil(H / stride), ceil(W / stride), width)`."""
        pooled_BHWC = self.pool(self.attention_norm(x_BHWC))
        grid = (pooled_BHWC.shape[1], pooled_BHWC.shape[2])
        attended_BNC = self.attention(pooled_BHWC.flatten(1, 2), grid)
        x_BNC = self.projection(self.pool(x_BHWC)).flatten(1, 2) + self.attention_depth(attended_BNC)
        x_BNC = x_BNC + self.feed_forward_depth(self.feed_forward(self.feed_forward_norm(x_BNC)))
        return x_BNC.unflatten(1, grid)
