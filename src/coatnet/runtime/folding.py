"""The inference form of a CoAtNet for one image size: nothing left that the weights or the size decide already.

Batch norms are folded into the convolutions beside them, the scale of attention into the queries' weights, the relative
tables are spread out to the bias of this size, and every pool knows its map. In exact arithmetic it is the same
function; in float32 the logits differ by rounding only. What the steps are worth: benchmarks/inference_speed.md.

Shapes: B batch, C channels, H height, W width, N = H * W tokens, h heads, d channels of a head. Maps are
`(B, C, H, W)`, as every engine's convolutions take them; tokens are `(B, N, C)`.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from coatnet.errors import ConfigError
from coatnet.model.attention import Grid, RelativeAttention
from coatnet.model.coatnet import CoAtNet, Head, PatchStem, Stem
from coatnet.model.config import SMALLEST_IMAGE, CoAtNetConfig
from coatnet.model.mbconv import MBConv, SqueezeExcitation
from coatnet.model.transformer import TransformerBlock


def fold(model: CoAtNet, image_size: Grid) -> nn.Module:
    """The same network for inference at one image size; `model` is left as it is, and shares no weights with it.

    Args:
        model: a member or any other network of a `CoAtNetConfig`.
        image_size: height and width in pixels, at least 32.

    Returns:
        `(B, input_channels, H, W)` float32, normalised -> `(B, num_classes)` logits, on the CPU.

    Raises:
        ConfigError: a side below 32, or a network that does not pool its last map.
    """
    if model.head.global_pool != "avg":
        raise ConfigError(
            f"global_pool is {model.head.global_pool!r}; only networks that pool have an inference form",
            "call reset_classifier with global_pool='avg'",
        )
    if min(image_size) < SMALLEST_IMAGE:
        raise ConfigError(
            f"image_size {image_size[0]}x{image_size[1]} is below {SMALLEST_IMAGE}, the smallest that is allowed"
        )
    with torch.no_grad():
        folded = FoldedCoAtNet(copy.deepcopy(model).eval().cpu(), image_size)
    return folded.eval().requires_grad_(False)


class FoldedCoAtNet(nn.Module):
    """Stem, convolutional blocks on maps, transformer blocks on tokens, head."""

    def __init__(self, model: CoAtNet, image_size: Grid) -> None:
        super().__init__()
        config = model.network_config
        grids = config.grids(*image_size)
        self.stem = FoldedPatchStem(model.stem) if isinstance(model.stem, PatchStem) else FoldedStem(model.stem)
        self.convolutional, self.attending = nn.Sequential(), nn.Sequential()
        for stage, before, after in zip(model.stages, grids[:-1], grids[1:], strict=True):
            for block in cast(nn.Sequential, stage):
                if isinstance(block, MBConv):
                    self.convolutional.append(FoldedMBConv(block, config, before, after))
                else:
                    self.attending.append(FoldedTransformerBlock(cast(TransformerBlock, block), config, before, after))
                before = after
        self.grid = grids[-1]
        self.head = FoldedHead(model.head)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Args: images_BCHW: `(B, input_channels, H, W)` of the folded size. Returns: `(B, num_classes)` logits."""
        x = self.attending(self.convolutional(self.stem(images_BCHW)))
        return cast(Tensor, self.head(x if x.ndim == 3 else _tokens(x)))


class FoldedStem(nn.Module):
    """Two 3x3 convolutions; the norm between them is in the first."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.reduce, self.norm = _norm_after(stem.reduce, stem.norm)
        self.activation = stem.activation
        self.mix = stem.mix

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: images. Returns: the map of S0."""
        return cast(Tensor, self.mix(self.activation(self.norm(self.reduce(x_BCHW)))))


class FoldedPatchStem(nn.Module):
    """One dense layer on each patch."""

    def __init__(self, stem: PatchStem) -> None:
        super().__init__()
        self.patch, self.embed = stem.patch, stem.embed

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: images. Returns: a map with one place for each patch."""
        missing_height, missing_width = (-size % self.patch for size in x_BCHW.shape[2:])
        if missing_height or missing_width:
            x_BCHW = functional.pad(x_BCHW, (0, missing_width, 0, missing_height))
        return cast(Tensor, self.embed(x_BCHW))


class FoldedMBConv(nn.Module):
    """Three convolutions with biases, squeeze-and-excitation, and the shortcut.

    The norm before a 1x1 convolution is folded forward into it, which has no padding that would have to be normalised
    as well; each other norm backward. The depthwise convolution pads with zeros behind the activation, so neither
    direction touches its padding.
    """

    def __init__(self, block: MBConv, config: CoAtNetConfig, before: Grid, after: Grid) -> None:
        super().__init__()
        self.pool = _pool(config, before) if not isinstance(block.pool, nn.Identity) else nn.Identity()
        self.projection = _pointwise(block.projection) if isinstance(block.projection, nn.Linear) else nn.Identity()
        self.norm, expand = _norm_before(block.norm, _pointwise(block.expand, block.expand_stride))
        self.expand, self.expand_norm = _norm_after(expand, block.expand_norm)
        self.depthwise, self.depthwise_norm = _norm_after(block.depthwise, block.depthwise_norm)
        self.activation = block.activation
        excitation = block.squeeze_excitation
        self.squeeze_excitation = (
            FoldedSqueezeExcitation(excitation, after) if isinstance(excitation, SqueezeExcitation) else nn.Identity()
        )
        self.shrink = _pointwise(block.shrink)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: map before the block. Returns: map after it."""
        inner = self.activation(self.expand_norm(self.expand(self.norm(x_BCHW))))
        inner = self.activation(self.depthwise_norm(self.depthwise(inner)))
        return cast(Tensor, self.shrink(self.squeeze_excitation(inner)) + self.projection(self.pool(x_BCHW)))


class FoldedSqueezeExcitation(nn.Module):
    """Gates from means; the mean is a pool over the whole map, which engines compute faster than a reduction."""

    def __init__(self, excitation: SqueezeExcitation, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.reduce, self.expand = _pointwise(excitation.reduce), _pointwise(excitation.expand)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Args: x_BCHW: a map. Returns: the same shape."""
        mean_BC11 = functional.avg_pool2d(x_BCHW, self.grid)
        return x_BCHW * torch.sigmoid(self.expand(functional.silu(self.reduce(mean_BC11))))


class AttentionOfGrid(nn.Module):
    """Attention of a kind that no engine fuses, as it is, for one grid."""

    def __init__(self, attention: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.attention, self.grid = attention, grid

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Args: x_BNC: tokens. Returns: tokens."""
        return cast(Tensor, self.attention(x_BNC, self.grid))


def _attention(attention: nn.Module, grid: Grid) -> nn.Module:
    if isinstance(attention, RelativeAttention):
        return FoldedAttention(attention, grid)
    return AttentionOfGrid(attention, grid)


class FoldedTransformerBlock(nn.Module):
    """Attention and feed-forward part on tokens; a block that pools takes a map, as the convolutions before it leave
    it: engines would move tokens about to get it back."""

    def __init__(self, block: TransformerBlock, config: CoAtNetConfig, before: Grid, after: Grid) -> None:
        super().__init__()
        self.before = before
        self.pool = None if isinstance(block.pool, nn.Identity) else _pool(config, before)
        pooled = self.pool is not None and isinstance(block.projection, nn.Linear)
        self.projection = _pointwise(cast(nn.Linear, block.projection)) if pooled else block.projection
        self.attention_norm = block.attention_norm
        self.attention = _attention(block.attention, after)
        self.feed_forward_norm = block.feed_forward_norm
        self.feed_forward = FoldedFeedForward(block.feed_forward, after)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: tokens or a map. Returns: tokens."""
        shortcut_BNC, normed_BNC = self._shortcut_and_normed(x)
        x_BNC = shortcut_BNC + self.attention(normed_BNC)
        return cast(Tensor, x_BNC + self.feed_forward(self.feed_forward_norm(x_BNC)))

    def _shortcut_and_normed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.pool is None:
            x_BNC = x if x.ndim == 3 else _tokens(x)
            return self.projection(x_BNC), self.attention_norm(x_BNC)
        x_BCHW = x if x.ndim == 4 else _map(x, self.before)
        normed_BCHW = _map(self.attention_norm(_tokens(x_BCHW)), self.before)
        return _tokens(self.projection(self.pool(x_BCHW))), _tokens(self.pool(normed_BCHW))


class FoldedAttention(nn.Module):
    """Relative attention with the bias of one grid, as the pattern that engines fuse."""

    def __init__(self, attention: RelativeAttention, grid: Grid) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        width = attention.output.in_features
        scale = torch.ones(3 * width, 1)
        scale[:width] = (width // self.num_heads) ** -0.5  # the queries come first
        merged = attention.query_key_value
        self.query_key_value = _linear(merged.weight * scale, merged.bias * scale[:, 0])
        self.output = attention.output
        tokens = math.prod(grid)
        bias_hNN = (
            attention.relative_bias(grid, torch.float32)
            if attention.relative_bias
            else torch.zeros(self.num_heads, tokens, tokens)
        )
        self.bias_1hNN: Tensor
        self.register_buffer("bias_1hNN", bias_hNN.detach().clone()[None])

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Args: x_BNC: tokens. Returns: the same number of tokens."""
        split_BNthd = torch.unflatten(self.query_key_value(x_BNC), 2, (3, self.num_heads, -1))
        q_BhNd, k_BhNd, v_BhNd = split_BNthd.permute(2, 0, 3, 1, 4).unbind(0)
        mask = self.bias_1hNN.to(q_BhNd.dtype)
        attended_BhNd = functional.scaled_dot_product_attention(q_BhNd, k_BhNd, v_BhNd, attn_mask=mask, scale=1.0)
        return cast(Tensor, self.output(attended_BhNd.transpose(1, 2).flatten(2)))


class FoldedFeedForward(nn.Module):
    """The two dense layers as 1x1 convolutions on a map: faster in OpenVINO (benchmarks/inference_speed.md)."""

    def __init__(self, layers: nn.Sequential, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        widen, self.activation, narrow = layers
        self.widen, self.narrow = _pointwise(cast(nn.Linear, widen)), _pointwise(cast(nn.Linear, narrow))

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Args: x_BNC: tokens. Returns: the same shape."""
        return _tokens(self.narrow(self.activation(self.widen(_map(x_BNC, self.grid)))))


class FoldedHead(nn.Module):
    """Mean of the tokens, norm, hidden layer, classes."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.layers = nn.Sequential(head.norm, head.hidden, head.classes)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Args: x_BNC: tokens. Returns: `(B, num_classes)` logits."""
        return cast(Tensor, self.layers(x_BNC.mean(1)))


def _tokens(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _map(x_BNC: Tensor, grid: Grid) -> Tensor:
    return torch.unflatten(x_BNC, 1, grid).permute(0, 3, 1, 2)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer


def _pointwise(layer: nn.Linear, stride: int = 1) -> nn.Conv2d:
    """A dense layer on the channels of a map as a 1x1 convolution, which takes every second row and column itself."""
    convolution = nn.Conv2d(layer.in_features, layer.out_features, 1, stride=stride, bias=layer.bias is not None)
    convolution.weight = nn.Parameter(layer.weight[:, :, None, None].clone())
    if layer.bias is not None:
        convolution.bias = nn.Parameter(layer.bias.clone())
    return convolution


def _pool(config: CoAtNetConfig, grid: Grid) -> nn.Module:
    """The 2x2 pool; only maps with odd sides have to be rounded up."""
    odd = any(side % 2 for side in grid)
    if config.pool == "max":
        return nn.MaxPool2d(2, ceil_mode=odd)
    return nn.AvgPool2d(2, ceil_mode=odd, count_include_pad=False)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm does to each channel outside training: x * scale + shift. In float64, rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _norm_before(norm: nn.Module, convolution: nn.Conv2d) -> tuple[nn.Module, nn.Conv2d]:
    """Fold a norm forward into the 1x1 convolution behind it."""
    if not isinstance(norm, nn.BatchNorm2d):
        return norm, convolution
    scale, shift = _scale_and_shift(norm)
    weight = convolution.weight.double()
    bias = weight[:, :, 0, 0] @ shift
    return nn.Identity(), _replaced(convolution, weight * scale[:, None, None], bias + _bias(convolution))


def _norm_after(convolution: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """Fold a norm backward into the convolution before it."""
    if not isinstance(norm, nn.BatchNorm2d):
        return convolution, norm
    scale, shift = _scale_and_shift(norm)
    weight = convolution.weight.double() * scale[:, None, None, None]
    return _replaced(convolution, weight, _bias(convolution) * scale + shift), nn.Identity()


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        return torch.zeros(convolution.out_channels, dtype=torch.float64)
    return convolution.bias.double()


def _replaced(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The convolution with other weights and a bias, in float32."""
    convolution.weight, convolution.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return convolution
