"""CoAtNet: a stem, stages of MBConv and transformer blocks, and a head (paper section 2.2, Fig. 4).

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from coatnet.errors import ConfigError
from coatnet.model.config import SMALLEST_IMAGE, CoAtNetConfig, Stage
from coatnet.model.initialisation import initialise
from coatnet.model.mbconv import MBConv, activation, channels_first, channels_last, convolution_norm
from coatnet.model.recompute import recomputed
from coatnet.model.timm_interface import TimmInterface
from coatnet.model.tracing import is_exported
from coatnet.model.transformer import TransformerBlock


class Stem(nn.Module):
    """S0: convolution 3x3, norm, GELU, convolution 3x3 (Fig. 4)."""

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        width, bias = config.stem_width, config.stem_bias
        self.reduce = nn.Conv2d(config.input_channels, width, 3, stride=config.stem_stride, padding=1, bias=bias)
        self.norm = convolution_norm(config, width)
        self.activation = activation(config)
        self.mix = nn.Conv2d(width, width, 3, padding=1, bias=bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, input_channels)`. Returns: `(B, ceil(H / stride), ceil(W / stride), stem_width)`."""
        reduced_BHWC = self.activation(channels_last(self.norm(self.reduce(channels_first(x_BHWC)))))
        return channels_last(self.mix(channels_first(reduced_BHWC)))


class PatchStem(nn.Module):
    """The ViT stem (section 2.2): one dense layer on each patch; patches that stick out are filled with zeros."""

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        self.patch = config.stem_stride
        self.embed = nn.Conv2d(
            config.input_channels, config.stem_width, self.patch, stride=self.patch, bias=config.stem_bias
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Args: x_BHWC: `(B, H, W, input_channels)`. Returns: `(B, ceil(H / patch), ceil(W / patch), stem_width)`."""
        missing_height, missing_width = (-size % self.patch for size in x_BHWC.shape[1:3])
        filled_BHWC = functional.pad(x_BHWC, (0, 0, 0, missing_width, 0, missing_height))
        return channels_last(self.embed(channels_first(filled_BHWC)))


class Head(nn.Module):
    """Global average pool, layer norm, hidden dense layer with tanh (switchable), classes."""

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        width, hidden = config.stages[-1].width, config.head_hidden_width
        self.norm: nn.Module = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.hidden: nn.Module = nn.Sequential(nn.Linear(width, hidden), nn.Tanh()) if hidden else nn.Identity()
        self.classes: nn.Module = (
            nn.Linear(hidden or width, config.num_classes) if config.num_classes else nn.Identity()
        )
        self.global_pool = "avg"
        """"" leaves the pool out: features of each place of the map. See `CoAtNet.reset_classifier`."""

    def forward(self, x_BHWC: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `(B, num_classes)` of a map; without a pool `(B, C, H, W)`.

        Args:
            x_BHWC: `(B, H, W, C)`.
            pre_logits: give what goes into the classes layer.
        """
        if not self.global_pool:
            return channels_first(self.hidden(self.norm(x_BHWC)))
        features_BC = self.hidden(self.norm(x_BHWC.flatten(1, 2).mean(1)))
        return features_BC if pre_logits else self.classes(features_BC)


class CoAtNet(TimmInterface):
    """The network of a config. `forward` returns logits, in training and in evaluation alike; `feature_maps` what a
    detector or another head takes in their place.

    Args:
        config: the network's choices.
    """

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__(config)
        self.recompute = False
        """Keep only the input of each block for the backward pass, and compute the rest again there."""
        self.stem = PatchStem(config) if config.stem == "patch" else Stem(config)
        grids = config.grids(config.image_size, config.image_size)
        input_width, first_block = config.stem_width, 0
        self.stages = nn.ModuleList()
        for stage, grid in zip(config.stages, grids[1:], strict=True):
            self.stages.append(_stage(config, stage, input_width, grid, first_block))
            input_width, first_block = stage.width, first_block + stage.depth
        self.head = Head(config)
        self.apply(lambda module: initialise(module, config.initialisation))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            images_BCHW: `(B, input_channels, H, W)` float, normalised; any H and W from 32 up.

        Returns:
            `(B, num_classes)` logits.

        Raises:
            ConfigError: an image smaller than 32 pixels, another number of channels, or no batch.
        """
        x_BHWC = self._after_stem(images_BCHW)
        for stage in self.stages:
            x_BHWC = self._after_stage(stage, x_BHWC)
        return self.head(x_BHWC)

    def feature_maps(self, images_BCHW: Tensor) -> list[Tensor]:
        """What the stem and each stage give, for networks that take more than logits (timm's `features_only`).

        Args:
            images_BCHW: as in `forward`.

        Returns:
            One map for the stem and one for each of `config.stages`, `(B, channels, height, width)`; the channels are
            `config.feature_channels`, the pixels between two places `config.feature_strides`, the sizes
            `config.grids(H, W)`. The last one is what the head takes.

        Raises:
            ConfigError: as in `forward`.
        """
        return self._maps(images_BCHW, len(self.stages))

    def _maps(self, images_BCHW: Tensor, num_stages: int) -> list[Tensor]:
        maps_BHWC = [self._after_stem(images_BCHW)]
        for stage in self.stages[:num_stages]:
            maps_BHWC.append(self._after_stage(stage, maps_BHWC[-1]))
        return [channels_first(x_BHWC) for x_BHWC in maps_BHWC]

    def _after_stem(self, images_BCHW: Tensor) -> Tensor:
        _check(images_BCHW, self.network_config.input_channels)
        return self.stem(channels_last(images_BCHW).contiguous())

    def _after_stage(self, stage: nn.Module, x_BHWC: Tensor) -> Tensor:
        return recomputed(stage, x_BHWC) if self.recompute else stage(x_BHWC)


@torch.fx.wrap  # a check of sizes is no part of the graphs that torch.fx records
def _check(images_BCHW: Tensor, input_channels: int) -> None:
    if is_exported():  # for other sizes too
        return
    if images_BCHW.ndim != 4:
        raise ConfigError(
            f"images have the shape {tuple(images_BCHW.shape)}, the network takes (batch, channels, height, width)",
            "image[None] makes a batch of one image",
        )
    _, channels, height, width = images_BCHW.shape
    if min(height, width) < SMALLEST_IMAGE:
        raise ConfigError(
            f"image of {height} x {width} pixels is below {SMALLEST_IMAGE}, the smallest that five halvings allow",
            "resize the image first",
        )
    if channels != input_channels:
        raise ConfigError(
            f"image has {channels} channels, the network takes {input_channels}",
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
            blocks.append(MBConv(config, input_width=width_in, width=stage.width, stride=stride, drop_rate=drop_rate))
        else:
            blocks.append(
                TransformerBlock(
                    config, input_width=width_in, width=stage.width, grid=grid, stride=stride, drop_rate=drop_rate
                )
            )
    return nn.Sequential(*blocks)
