"""The convolutional block of S1 and S2: MBConv with squeeze-and-excitation (paper Fig. 4, A.1, Eq. 5).

Shapes: B batch, C channels, H height, W width. Maps are `(B, H, W, C)` from stem to head: 1x1 convolutions are dense
layers on them, tokens are views of them, and their gradients keep the layout, which those of `(B, C, H, W)` views lose
in some of torch's formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from coatnet.model.config import CoAtNetConfig
from coatnet.model.expanded import (
    can_convolve,
    can_expand_and_norm,
    depthwise,
    expand_and_norm,
    gated_dense,
    is_untouched,
)
from coatnet.model.tracing import is_traced


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole samples while training, and divides what is kept by the survival rate.

    Args:
        rate: probability of dropping, 0 to 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.uniform_B: Tensor | None = None
        """The samples' draws from [0, 1), set before a forward to make it a function of the step and the sample; drawn
        from the global generator if None."""

    def forward(self, branch_BX: Tensor) -> Tensor:
        """Args: branch_BX: `(B, ...)`. Returns: the same shape, dropped samples zero."""
        if not self.training or self.rate == 0:
            return branch_BX
        num_samples = branch_BX.shape[0]
        uniform_B = self.uniform_B
        if uniform_B is None:  # the numbers of torch.rand, which does not take the sizes that torch.fx records
            uniform_B = branch_BX.new_empty((num_samples,), dtype=torch.float32).uniform_()
        scale_B = (uniform_B >= self.rate).to(branch_BX.dtype) / (1 - self.rate)
        return branch_BX * scale_B.view(num_samples, *[1] * (branch_BX.ndim - 1))


def channels_first(x_BHWC: Tensor) -> Tensor:
    """The `(B, C, H, W)` view that torch's convolutions and pools take."""
    return x_BHWC.permute(0, 3, 1, 2)


def channels_last(x_BCHW: Tensor) -> Tensor:
    """The `(B, H, W, C)` view of a map whose memory is channels-last."""
    return x_BCHW.permute(0, 2, 3, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map `(B, C, H, W)`."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: `(B, C, H, W)`. Returns: the same shape."""
        return channels_first(super().forward(channels_last(x_BCHW)))


def convolution_norm(config: CoAtNetConfig, width: int) -> nn.Module:
    """The norm of MBConv and of the stem, as configured; of maps `(B, C, H, W)`, as torch's own batch norm."""
    if config.convolution_norm == "layer":
        return ChannelNorm(width, eps=config.layer_norm_epsilon)
    return nn.BatchNorm2d(width, eps=config.batch_norm_epsilon, momentum=config.batch_norm_momentum)


def activation(config: CoAtNetConfig) -> nn.GELU:
    """GELU in the configured form."""
    return nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")


class Pool(nn.Module):
    """The 2x2 pool of shortcuts and of attention; odd maps are rounded up, as a strided convolution does."""

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        self.pool = (
            nn.MaxPool2d(2, ceil_mode=True)
            if config.pool == "max"
            else nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, C)`. Returns: `(B, ceil(H / 2), ceil(W / 2), C)`."""
        return channels_last(self.pool(channels_first(x_BHWC)))


class SqueezeExcitation(nn.Module):
    """Scales channels by a gate computed from their means (SiLU inside, as the lineage; the paper names no activation).

    Args:
        width: channels of the map.
        bottleneck: channels between the two dense layers.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, bottleneck)
        self.expand = nn.Linear(bottleneck, width)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, C)`. Returns: the same shape."""
        return x_BHWC * self.gate(x_BHWC)[:, None, None, :]

    def gate(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, C)`. Returns: the factor of each channel, `(B, C)` from 0 to 1."""
        num_places = x_BHWC.shape[1] * x_BHWC.shape[2]
        mean_BC = x_BHWC.sum((1, 2)) / num_places
        return torch.sigmoid(self.expand(functional.silu(self.reduce(mean_BC))))


class MBConv(nn.Module):
    """x <- Proj(Pool(x)) + Shrink(SE(Depthwise(Expand(Norm(x))))) (Eq. 5), pre-norm, GELU.

    Args:
        config: the network's choices.
        input_width: channels in.
        width: channels out.
        stride: 1 or 2.
        drop_rate: stochastic depth of the residual branch.
    """

    def __init__(
        self, config: CoAtNetConfig, *, input_width: int, width: int, stride: int = 1, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        inner = config.inner_width(width)
        self.expand_stride, depthwise_stride = (stride, 1) if config.stride_location == "expand" else (1, stride)
        self.pool = Pool(config) if stride > 1 else nn.Identity()
        self.projection = nn.Linear(input_width, width) if input_width != width else nn.Identity()
        self.norm = convolution_norm(config, input_width)
        self.expand = nn.Linear(input_width, inner, bias=False)
        self.expand_norm = convolution_norm(config, inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride=depthwise_stride, padding=1, groups=inner, bias=False)
        self.depthwise_norm = convolution_norm(config, inner)
        self.activation = activation(config)
        bottleneck = config.squeeze_width(width)
        self.squeeze_excitation = SqueezeExcitation(inner, bottleneck) if bottleneck else nn.Identity()
        self.shrink = nn.Linear(inner, width)
        self.stochastic_depth = StochasticDepth(drop_rate)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, input_width)`. Returns: `(B, ceil(H / stride), ceil(W / stride), width)`."""
        shortcut = self.projection(self.pool(x_BHWC))
        # A 1x1 convolution of stride 2 is a dense layer on every second row and column.
        strided = channels_last(self.norm(channels_first(x_BHWC)))[:, :: self.expand_stride, :: self.expand_stride]
        if self._trains_lean(strided):
            return shortcut + self.stochastic_depth(self._lean_branch(strided))
        inner = self.activation(channels_last(self.expand_norm(channels_first(self.expand(strided)))))
        inner = self.activation(channels_last(self.depthwise_norm(self.depthwise(channels_first(inner)))))
        branch = self.shrink(self.squeeze_excitation(inner))
        return shortcut + self.stochastic_depth(branch)

    def _trains_lean(self, strided_BHWC: Tensor) -> bool:
        """Whether the forms of expanded.py serve: training on a CPU, in the paper's form, and nobody has changed the
        layers that they stand for."""
        return (
            self.training
            and not is_traced()
            and isinstance(strided_BHWC, Tensor)  # torch.fx puts something else through
            and strided_BHWC.device.type == "cpu"
            and strided_BHWC[..., 0].numel() > 1  # one place has no variance: the norm's own error tells
            and can_expand_and_norm(self.expand, self.expand_norm)
            and can_convolve(self.depthwise)
        )

    def _lean_branch(self, strided_BHWC: Tensor) -> Tensor:
        """The residual branch from the expansion on, with fewer passes over the expanded map."""
        grid = strided_BHWC.shape[1:3]
        assert isinstance(self.expand_norm, nn.BatchNorm2d)
        inner_BNC = self.activation(expand_and_norm(strided_BHWC.flatten(1, 2), self.expand, self.expand_norm))
        inner_BHWC = depthwise(inner_BNC.unflatten(1, grid), self.depthwise)
        inner_BHWC = self.activation(channels_last(self.depthwise_norm(channels_first(inner_BHWC))))
        excitation = self.squeeze_excitation
        # Weights of each sample are smaller than its map only where it has more places than they have rows.
        if self._can_gate_weights() and grid.numel() > 2 * self.shrink.out_features:
            assert isinstance(excitation, SqueezeExcitation)
            gate_BC = excitation.gate(inner_BHWC)
            return gated_dense(inner_BHWC.flatten(1, 2), gate_BC, self.shrink).view(*strided_BHWC.shape[:3], -1)
        return self.shrink(excitation(inner_BHWC))

    def _can_gate_weights(self) -> bool:
        """Whether `gated_dense` does what the last two layers do."""
        return (
            is_untouched(self.squeeze_excitation, SqueezeExcitation)
            and is_untouched(self.shrink, nn.Linear)
            and self.shrink.bias is not None
        )
