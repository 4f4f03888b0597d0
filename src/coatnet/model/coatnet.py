"""CoAtNet: a stem, stages of MBConv and transformer blocks, and a head (paper section 2.2, Fig. 4).

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coatnet.errors import ConfigError
from coatnet.model.attention import RelativeBias
from coatnet.model.config import SMALLEST_IMAGE, CoAtNetConfig, Stage
from coatnet.model.mbconv import MBConv, activation, convolution_norm
from coatnet.model.transformer import TransformerBlock

INITIAL_DEVIATION = 0.02
"""Standard deviation of every initial weight and relative table. Not in the paper: google-research/maxvit's value."""


class Stem(nn.Module):
    """S0: convolution 3x3, norm, GELU, convolution 3x3 (Fig. 4); or one convolution of patches (section 2.2)."""

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        width, stride, bias = config.stem_width, config.stem_stride, config.stem_bias
        if config.stem == "patch":
            self.layers = nn.Sequential(nn.Conv2d(config.input_channels, width, stride, stride=stride, bias=bias))
        else:
            self.layers = nn.Sequential(
                nn.Conv2d(config.input_channels, width, 3, stride=stride, padding=1, bias=bias),
                convolution_norm(config, width),
                activation(config),
                nn.Conv2d(width, width, 3, padding=1, bias=bias),
            )
        self.patch = stride if config.stem == "patch" else 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: `(B, input_channels, H, W)`. Returns: `(B, stem_width, ceil(H / stride), ceil(W / stride))`."""
        missing = [-size % self.patch for size in x_BCHW.shape[2:]]
        if any(missing):  # patches that stick out are filled with zeros, so that sizes round up here too
            x_BCHW = nn.functional.pad(x_BCHW, (0, missing[1], 0, missing[0]))
        return self.layers(x_BCHW)


class Head(nn.Module):
    """Global average pool, layer norm, hidden dense layer with tanh (switchable), classes."""

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        width, hidden = config.stages[-1].width, config.head_hidden_width
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.Tanh()) if hidden else nn.Identity()
        self.classes = nn.Linear(hidden or width, config.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: `(B, C, H, W)`. Returns: logits `(B, num_classes)`."""
        return self.classes(self.hidden(self.norm(x_BCHW.mean((2, 3)))))


class CoAtNet(nn.Module):
    """The network of a config. `forward` returns logits, in training and in evaluation alike.

    Args:
        config: the network's choices.
    """

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        grids = config.grids(config.image_size, config.image_size)
        input_width, first_block = config.stem_width, 0
        self.stages = nn.ModuleList()
        for stage, grid in zip(config.stages, grids[1:], strict=True):
            self.stages.append(_stage(config, stage, input_width, grid, first_block))
            input_width, first_block = stage.width, first_block + stage.depth
        self.head = Head(config)
        self.apply(_initialise)
        self.to(memory_format=torch.channels_last)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            images_BCHW: `(B, input_channels, H, W)` float, normalised; any H and W from 32 up.

        Returns:
            `(B, num_classes)` logits.

        Raises:
            ConfigError: an image smaller than 32 pixels, or another number of channels.
        """
        self._check(images_BCHW)
        x_BCHW = self.stem(images_BCHW.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
        return self.head(x_BCHW)

    def _check(self, images_BCHW: Tensor) -> None:
        _, channels, height, width = images_BCHW.shape
        if min(height, width) < SMALLEST_IMAGE:
            raise ConfigError(
                f"image of {height} x {width} pixels is below {SMALLEST_IMAGE}, the smallest that five halvings allow",
                "resize the image first",
            )
        if channels != self.config.input_channels:
            raise ConfigError(
                f"image has {channels} channels, the network takes {self.config.input_channels}",
                "convert the image, or build the network with input_channels",
            )


def _stage(config: CoAtNetConfig, stage: Stage, input_width: int, grid: tuple[int, int], first_block: int) -> nn.Module:
    """The blocks of one stage; the first one down-samples and widens."""
    blocks: list[nn.Module] = []
    for index in range(stage.depth):
        # Linear in depth from 0, over all blocks of S1 to S4 (the lineage's rule; the paper gives only the last rate).
        drop_rate = config.stochastic_depth * (first_block + index) / config.num_blocks
        width_in = input_width if index == 0 else stage.width
        stride = stage.stride if index == 0 else 1
        if stage.block == "C":
            blocks.append(
                MBConv(config, input_width=width_in, width=stage.width, stride=stride, drop_rate=drop_rate)
            )
        else:
            blocks.append(
                TransformerBlock(
                    config, input_width=width_in, width=stage.width, grid=grid, stride=stride, drop_rate=drop_rate
                )
            )
    return nn.Sequential(*blocks)


def _initialise(module: nn.Module) -> None:
    """Normal weights and tables, zero biases: the lineage's initialisation; the paper gives none."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, RelativeBias):
        nn.init.normal_(module.table, std=INITIAL_DEVIATION)
