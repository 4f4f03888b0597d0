import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from coatnet.model.config import CoAtNetConfig
from coatnet.model.mbconv import MBConv, SqueezeExcitation, StochasticDepth, channels_first, channels_last

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32))


def slow_mbconv(block: MBConv, x: Tensor, depthwise_stride: int, expand_stride: int) -> Tensor:
    """Equation 5 with loops over every place and channel; x: (H, W, C)."""

    def norm(values: Tensor, layer: torch.nn.BatchNorm2d) -> Tensor:
        return (values - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps) * layer.weight + layer.bias

    def gelu(values: Tensor) -> Tensor:
        cubed = 0.044715 * values**3
        return 0.5 * values * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + cubed)))

    height, width, _ = x.shape
    stride = depthwise_stride * expand_stride
    rows, columns = -(-height // stride), -(-width // stride)
    inner = block.expand.weight.shape[0]
    expanded = norm(x, block.norm)[::expand_stride, ::expand_stride] @ block.expand.weight.T
    expanded = gelu(norm(expanded, block.expand_norm))
    mixed = torch.zeros(rows, columns, inner, dtype=x.dtype)
    for row in range(rows):
        for column in range(columns):
            for i in range(3):
                for j in range(3):
                    y, z = row * depthwise_stride + i - 1, column * depthwise_stride + j - 1
                    if 0 <= y < expanded.shape[0] and 0 <= z < expanded.shape[1]:
                        mixed[row, column] += expanded[y, z] * block.depthwise.weight[:, 0, i, j]
    mixed = gelu(norm(mixed, block.depthwise_norm))
    if isinstance(block.squeeze_excitation, SqueezeExcitation):
        gate = block.squeeze_excitation
        mean = mixed.mean((0, 1))
        hidden = gate.reduce.weight @ mean + gate.reduce.bias
        mixed = mixed / (1 + torch.exp(-(gate.expand.weight @ (hidden / (1 + torch.exp(-hidden))) + gate.expand.bias)))
    residual = mixed @ block.shrink.weight.T + block.shrink.bias
    shortcut = x
    if stride == 2:
        shortcut = torch.zeros(rows, columns, x.shape[2], dtype=x.dtype)
        for row in range(rows):
            for column in range(columns):
                shortcut[row, column] = x[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].amax((0, 1))
    if not isinstance(block.projection, torch.nn.Identity):
        shortcut = shortcut @ block.projection.weight.T + block.projection.bias
    return shortcut + residual


@pytest.mark.parametrize("size", [(6, 6), (4, 7), (5, 3)])
@pytest.mark.parametrize("location", ["expand", "depthwise"])
@pytest.mark.parametrize(("input_width", "width", "stride"), [(8, 12, 2), (8, 8, 1), (8, 8, 2)])
def test_equals_the_slow_loop(size: tuple[int, int], location: str, input_width: int, width: int, stride: int) -> None:
    torch.manual_seed(0)
    config = CONFIG.replace(stride_location=location)
    block = MBConv(config, input_width=input_width, width=width, stride=stride).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in block.named_buffers():
            if name.endswith("var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("mean"):
                buffer.normal_()
        x = torch.randn(2, *size, input_width, dtype=torch.float64)
        strides = (1, stride) if location == "expand" else (stride, 1)
        expected = torch.stack([slow_mbconv(block, image, *strides) for image in x])
        assert (block(x) - expected).abs().max() < 1e-10


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    depth = StochasticDepth(0.25).train()
    depth.uniform_B = torch.tensor([0.0, 0.2499, 0.25, 0.99])
    ones = torch.ones(4, 2, 3)
    dropped = depth(ones)
    assert torch.equal(dropped[:2], torch.zeros(2, 2, 3))
    torch.testing.assert_close(dropped[2:], ones[2:] / 0.75)
    assert torch.equal(depth.eval()(ones), ones)


def test_a_block_whose_branches_are_all_dropped_is_its_shortcut() -> None:
    block = MBConv(CONFIG, input_width=8, width=8, drop_rate=0.5).train()
    block.stochastic_depth.uniform_B = torch.zeros(3)
    x = torch.randn(3, 4, 4, 8)
    assert torch.equal(block(x), x)


def test_layer_norm_in_place_of_batch_norm() -> None:
    torch.manual_seed(0)
    block = MBConv(CONFIG.replace(convolution_norm="layer"), input_width=8, width=8).train()
    assert not list(block.buffers())
    x = torch.randn(3, 4, 4, 8)
    found = channels_last(block.norm(channels_first(x)))
    torch.testing.assert_close(found, functional.layer_norm(x, (8,), eps=1e-5))
