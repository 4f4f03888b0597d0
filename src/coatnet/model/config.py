"""What a network is: its stages and every choice that published CoAtNets differ in. Imports no torch."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Literal, Self, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from coatnet.errors import ConfigError
from coatnet.frozen import Frozen, explain

Model = TypeVar("Model", bound=Frozen)
SMALLEST_IMAGE = 32
"""Shorter sides cannot be halved five times (paper section 3: the last stage stands at 1/32)."""


class Stage(Frozen):
    """A run of equal blocks: one of S1 to S4, or one half of a mixed stage."""

    block: Literal["C", "T"]
    """C: MBConv. T: transformer with relative attention (paper Fig. 4)."""
    depth: PositiveInt
    """Number of blocks (L in paper Table 3)."""
    width: PositiveInt
    """Channels (D in paper Table 3)."""
    stride: Literal[1, 2] = 2
    """Down-sampling in the first block; the paper halves in every stage."""
    continues: bool = False
    """Belongs to the same stage as the one before, as the attention half of S3 in CoAtNet-6 and -7 (Table 12)."""


class CoAtNetConfig(Frozen):
    """A member of the family. The defaults are the paper's form; the rest exists because published weights differ."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    """S1 to S4; a convolutional stage never follows an attention stage (paper section 2.2)."""
    stem: Literal["conv", "patch"] = "conv"
    """conv: two 3x3 convolutions (S0, Fig. 4). patch: one convolution of `stem_stride`, the ViT stem (section 2.2)."""
    stem_width: PositiveInt = 64
    """Channels of S0 (Table 3)."""
    stem_stride: PositiveInt = 2
    """Down-sampling of the stem: 2 in the paper, 16 for ViT_REL; 1 suits 32 px images."""
    stem_bias: bool = True
    """Bias in the stem's convolutions: yes in the lineage (google-research/maxvit), no in timm's coatnet_N_224."""
    num_classes: NonNegativeInt = 1000
    """Logits per image; 0 for no classes layer: the network gives what would go into it."""
    input_channels: PositiveInt = 3
    """Channels per image."""
    image_size: int = Field(224, ge=SMALLEST_IMAGE)
    """Height and width that the relative tables are made for, pixels (224 in section 4.1)."""
    expansion: PositiveFloat = 4.0
    """Inner width of MBConv and of the feed-forward part, times the output width (Table 3 caption, paper 8.1)."""
    squeeze_ratio: float = Field(0.25, ge=0, le=1)
    """Squeeze-and-excitation bottleneck, times the output width; 0 for none (Table 3 caption)."""
    head_size: PositiveInt = 32
    """Channels of an attention head: 32; 64 for CoAtNet-5, 128 for -6 and -7 (Table 3 caption, A.2)."""
    relative_attention: bool = True
    """Learned bias per head and offset in the attention logits (Eq. 3; off in Table 6)."""
    bias_position: Literal["before", "after"] = "before"
    """Where the relative bias is added: before the softmax (y^pre of section 2.1, the paper's choice) or after it
    (y^post)."""
    attention: Literal["global", "window", "linear"] = "global"
    """What attention blocks attend to (section 2.2). global: the whole map. window: the window of the map that a token
    is in. linear: the whole map at a cost linear in the tokens, without a softmax and so without relative bias
    (arXiv 2006.16236)."""
    attention_window: PositiveInt = 7
    """Height and width of the windows where `attention` is window, tokens; 7 in Swin (arXiv 2103.14030)."""
    stride_location: Literal["expand", "depthwise"] = "expand"
    """Where MBConv strides: the first 1x1 convolution (Eq. 5) or the depthwise one (Table 9)."""
    pool: Literal["max", "average"] = "max"
    """2x2 pool on shortcuts and before attention: max (A.1); average in timm's coatnet_N_224."""
    convolution_norm: Literal["batch", "layer"] = "batch"
    """Norm in MBConv (A.1; Table 8 compares)."""
    batch_norm_epsilon: PositiveFloat = 1e-3
    """Not in the paper: the lineage's value; 1e-5 in timm."""
    batch_norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of the new batch in the running statistics. Not in the paper: the lineage's value; 0.1 in timm."""
    layer_norm_epsilon: PositiveFloat = 1e-5
    """Not in the paper: the lineage's value; 1e-6 in timm."""
    gelu: Literal["tanh", "erf"] = "tanh"
    """Form of GELU. Not in the paper: tanh in the lineage; erf in timm's coatnet_N_224."""
    hidden_width: int | None = Field(None, ge=0)
    """Hidden dense layer with tanh before the classes. None: as wide as the last stage (what the paper's parameter
    counts demand, and the lineage's form); 0: no such layer (Fig. 4 draws none)."""
    initialisation: Literal["normal", "fan"] = "normal"
    """First weights. Not in the paper. normal: standard deviation 0.02, the lineage's. fan: scaled by the number of
    inputs and outputs, timm's; short runs of small members learn much faster from it."""
    stochastic_depth: float = Field(0.0, ge=0, lt=1)
    """Sets the probability of dropping a block's branches for a sample (Table 10): block i of n, counted from 0, drops
    them with `stochastic_depth * i / n` (the lineage's rule). Attention and feed-forward branches are dropped apart."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stem == "conv" and self.stages[0].block != "C":
            raise ValueError(
                f"layout {self.layout} starts with attention; S1 always convolves "
                "(or use layout 'ViT', whose stem is a patch)"
            )
        for index, (before, after) in enumerate(itertools.pairwise(self.stages)):
            if before.block == "T" and after.block == "C":
                raise ValueError(f"layout {self.layout} convolves after attention; put every C before the first T")
            if after.continues and (after.stride != 1 or after.block == before.block):
                raise ValueError(f"stages[{index + 1}] continues a stage, so it needs stride 1 and another block kind")
        if self.stages[0].continues:
            raise ValueError("stages[0] cannot continue a stage: there is none before it")
        if self.attention == "linear" and self.relative_attention:
            raise ValueError("linear attention has no relative bias; set relative_attention to false")
        if self.bias_position == "after" and not self.relative_attention:
            raise ValueError("bias_position after needs relative_attention; leave one of them out")
        for index, stage in enumerate(self.stages):
            if stage.block == "T" and stage.width % self.head_size:
                raise ValueError(
                    f"stages[{index}].width {stage.width} is not a multiple of head_size {self.head_size}; "
                    "change one of the two"
                )
        return self

    @property
    def layout(self) -> str:
        """Letters of the stages, as "C-C-T-T"; a mixed stage is "CT"; "ViT" for a patch stem with one stage."""
        if self.stem == "patch" and len(self.stages) == 1:
            return "ViT"
        groups: list[str] = []
        for stage in self.stages:
            if stage.continues and groups:
                groups[-1] += stage.block
            else:
                groups.append(stage.block)
        return "-".join(groups)

    @property
    def num_blocks(self) -> int:
        """Blocks of S1 to S4, the stem not counted."""
        return sum(stage.depth for stage in self.stages)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels after the stem and after each stage."""
        return (self.stem_width, *(stage.width for stage in self.stages))

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Pixels of the image for a step in the map, after the stem and after each stage: 2, 4, 8, 16, 32 in the
        paper."""
        return tuple(itertools.accumulate((self.stem_stride, *(stage.stride for stage in self.stages)), operator.mul))

    @property
    def head_hidden_width(self) -> int:
        """Width of the hidden dense layer of the head, 0 for none."""
        return self.stages[-1].width if self.hidden_width is None else self.hidden_width

    def inner_width(self, width: int) -> int:
        """Channels inside MBConv and inside the feed-forward part of a block that gives `width` (paper 8.1)."""
        return int(width * self.expansion)

    def squeeze_width(self, width: int) -> int:
        """Bottleneck of squeeze-and-excitation in a block that gives `width` (paper 8.1); 0 for none."""
        return max(1, int(width * self.squeeze_ratio)) if self.squeeze_ratio else 0

    def attention_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Tokens that a token attends to, as height and width; the relative table is made for these.

        Args:
            grid: of the map at the config's image size.
        """
        if self.attention != "window":
            return grid
        return min(grid[0], self.attention_window), min(grid[1], self.attention_window)

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Sizes of the feature map after the stem and after each stage, for an image of `height` x `width` pixels."""
        sizes = [(_ceil_divide(height, self.stem_stride), _ceil_divide(width, self.stem_stride))]
        for stage in self.stages:
            sizes.append((_ceil_divide(sizes[-1][0], stage.stride), _ceil_divide(sizes[-1][1], stage.stride)))
        return tuple(sizes)

    def image_size_of(self, stage: int, side: int) -> int:
        """The image size at which the map after a stage is `side` x `side`, at least 32."""
        return max(SMALLEST_IMAGE, side * self.feature_strides[stage + 1])

    @classmethod
    def from_layout(
        cls,
        layout: str,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        strides: tuple[int, ...] | None = None,
        **choices: object,
    ) -> Self:
        """The network of a layout.

        Args:
            layout: a letter per stage, as "CCTT" or "C-C-T-T"; a mixed stage needs the hyphens, as "C-C-CT-T";
                "ViT" for a patch stem and transformer blocks only (ViT_REL of section 2.2).
            depths: blocks of the stem and of each letter, as (2, 2, 3, 5, 2); for "ViT" only the number of blocks.
            widths: channels of the stem and of each letter; for "ViT" only the width.
            strides: of the stem and of each letter, 2 if not given; for "ViT" only the patch, 16 if not given.
            choices: any other field of the config.

        Raises:
            ConfigError: letters other than C and T, or counts that do not fit the layout.
        """
        if layout.lower() == "vit":
            return cls._vit(depths, widths, strides or (16,), choices)
        groups = layout.split("-") if "-" in layout else list(layout)
        letters = "".join(groups)
        if not letters or set(letters) - {"C", "T"}:
            raise ConfigError(
                f"layout {layout!r} is not made of C and T", "write one letter per stage, as CCTT, or ViT"
            )
        strides = strides or tuple(1 if continues else 2 for continues in (False, *_continues(groups)))
        for name, values in (("depths", depths), ("widths", widths), ("strides", strides)):
            if len(values) != len(letters) + 1:
                raise ConfigError(
                    f"{name} has {len(values)} values, layout {layout} needs {len(letters) + 1}",
                    "give one for the stem and one for each letter",
                )
        if depths[0] != 2:
            raise ConfigError(f"depths[0] is {depths[0]}, the stem always has 2 convolutions", "start depths with 2")
        stages = tuple(
            {"block": letter, "depth": depth, "width": width, "stride": stride, "continues": continues}
            for letter, depth, width, stride, continues in zip(
                letters, depths[1:], widths[1:], strides[1:], _continues(groups), strict=True
            )
        )
        return cls.model_validate({"stages": stages, "stem_width": widths[0], "stem_stride": strides[0], **choices})

    @classmethod
    def _vit(
        cls, depths: tuple[int, ...], widths: tuple[int, ...], strides: tuple[int, ...], choices: dict[str, object]
    ) -> Self:
        for name, values in (("depths", depths), ("widths", widths), ("strides", strides)):
            if len(values) != 1:
                raise ConfigError(f"{name} has {len(values)} values, layout ViT needs 1", "give only the blocks' own")
        stage = {"block": "T", "depth": depths[0], "width": widths[0], "stride": 1}
        return cls.model_validate(
            {"stages": (stage,), "stem": "patch", "stem_width": widths[0], "stem_stride": strides[0], **choices}
        )


def changed(config: Model, changes: Mapping[str, object]) -> Model:
    """A config with some fields set otherwise.

    Raises:
        ConfigError: a change does not validate.
    """
    try:
        return config.replace(**changes)
    except ValidationError as error:
        kind = type(config).__name__
        raise ConfigError(f"model {explain(error)}", f"see {kind} for the fields and their ranges") from None


def _continues(groups: list[str]) -> list[bool]:
    """For each letter of the groups, whether it continues its group's stage."""
    return [position > 0 for group in groups for position in range(len(group))]


def _ceil_divide(size: int, stride: int) -> int:
    """Odd maps are rounded up in convolution and pool alike."""
    return -(-size // stride)
