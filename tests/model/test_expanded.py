"""The lean forms give what the layers give: values, gradients, running statistics."""

import copy

import pytest
import torch
from torch import Tensor, nn

from coatnet.model.config import CoAtNetConfig
from coatnet.model.expanded import depthwise, expand_and_norm, gated_dense
from coatnet.model.mbconv import MBConv

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32))


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def trained(module: nn.Module, forward, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after a forward and a backward pass."""
    x = x.clone().requires_grad_()
    y = forward(x)
    y.backward(gradient.to(y.dtype))
    gradients = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    return {"output": y.detach(), "x": x.grad, **gradients, **dict(module.named_buffers())}


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: name + text)


def test_expansion_and_norm():
    torch.manual_seed(0)
    layers = randomised(nn.ModuleDict({"expand": nn.Linear(6, 20, bias=False), "norm": nn.BatchNorm1d(20)})).double()
    x, gradient = 2 * torch.randn(3, 35, 6).double() + 0.5, torch.randn(3, 35, 20).double()
    lean, plain = copy.deepcopy(layers), layers

    def layer_by_layer(x: Tensor) -> Tensor:
        return plain["norm"](plain["expand"](x).flatten(0, 1)).view(3, 35, 20)

    found = trained(lean, lambda x: expand_and_norm(x, lean["expand"], lean["norm"]), x, gradient)
    check(found, trained(plain, layer_by_layer, x, gradient))
    assert found["norm.num_batches_tracked"] == 1


def test_a_channel_that_does_not_vary_is_no_division_by_zero():
    expand, norm = nn.Linear(2, 4, bias=False), nn.BatchNorm2d(4)
    y = expand_and_norm(torch.ones(2, 9, 2), expand, norm)
    assert y.abs().max() < 1e-4


@pytest.mark.parametrize("size", [(9, 9), (5, 8)])
def test_depthwise_convolution(size):
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False).double()
    lean, x, gradient = copy.deepcopy(layer), torch.randn(2, *size, 12).double(), torch.randn(2, *size, 12).double()
    found = trained(lean, lambda x: depthwise(x, lean), x, gradient)
    check(found, trained(layer, lambda x: layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), x, gradient))


def test_depthwise_weight_gradient_in_groups_of_channels():
    torch.manual_seed(0)
    layer = nn.Conv2d(80, 80, 3, padding=1, groups=80, bias=False)
    x, gradient = torch.randn(1, 96, 96, 80), torch.randn(1, 96, 96, 80)  # 18 kB a channel in bfloat16: 32, 32 and 16
    y = depthwise(x.bfloat16(), copy.deepcopy(layer).bfloat16())
    assert y.shape == x.shape
    lean = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        depthwise(x, lean).backward(gradient.bfloat16())
    layer(x.permute(0, 3, 1, 2)).backward(gradient.permute(0, 3, 1, 2))
    assert (lean.weight.grad - layer.weight.grad).norm() < 0.01 * layer.weight.grad.norm()


def test_gate_in_the_weights():
    torch.manual_seed(0)
    dense = nn.Linear(10, 4).double()
    x, gate = torch.randn(3, 7, 10).double(), torch.rand(3, 10).double()
    torch.testing.assert_close(gated_dense(x, gate, dense), dense(x * gate[:, None]))


def plain_forward(block: MBConv, x: Tensor) -> Tensor:
    """The block as its layers say, in the same mode."""
    block._trains_lean = lambda _: False
    return block(x)


@pytest.mark.parametrize("squeeze_ratio", [0, 0.25])
@pytest.mark.parametrize("location", ["expand", "depthwise"])
@pytest.mark.parametrize(("input_width", "stride"), [(8, 2), (12, 1)])
def test_a_block_that_trains(location, input_width, stride, squeeze_ratio):
    torch.manual_seed(0)
    config = CONFIG.replace(stride_location=location, squeeze_ratio=squeeze_ratio)
    block = randomised(MBConv(config, input_width=input_width, width=12, stride=stride, drop_rate=0.3)).double().train()
    block.stochastic_depth.uniform_B = torch.tensor([0.1, 0.6, 0.9])
    x = torch.randn(3, 13, 11, input_width).double()
    gradient = torch.randn_like(block(x).detach())
    lean, plain = copy.deepcopy(block), copy.deepcopy(block)
    assert lean._trains_lean(x) == (location == "expand" or stride == 1)
    check(trained(lean, lean, x, gradient), trained(plain, lambda x: plain_forward(plain, x), x, gradient))


def test_bfloat16_is_no_coarser_than_layer_by_layer():
    """Against float64; the gradient of the expansion is the one that cancels most."""
    torch.manual_seed(0)
    block = MBConv(CONFIG.replace(initialisation="fan"), input_width=32, width=32).train()
    x, gradient = torch.randn(8, 16, 16, 32), torch.randn(8, 16, 16, 32)
    exact, lean, plain = copy.deepcopy(block).double(), copy.deepcopy(block), copy.deepcopy(block)
    expected = trained(exact, exact, x.double(), gradient)

    def half(forward):
        def call(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return forward(x)

        return call

    found = trained(lean, half(lean), x, gradient)
    usual = trained(plain, half(lambda x: plain_forward(plain, x)), x, gradient)
    # What shifts or scales channels before a norm has no gradient but rounding.
    for name in expected.keys() - {"norm.bias", "norm.num_batches_tracked", "expand_norm.num_batches_tracked"}:
        if expected[name].is_floating_point():
            error, before = ((run[name] - expected[name]).norm() / expected[name].norm() for run in (found, usual))
            assert error < 2 * before + 0.002, (name, float(error), float(before))


def test_without_training_or_with_layer_norm_the_layers_are_used():
    x = torch.randn(2, 4, 4, 8)
    assert not MBConv(CONFIG, input_width=8, width=8).eval()._trains_lean(x)
    block = MBConv(CONFIG.replace(convolution_norm="layer"), input_width=8, width=8).train()
    assert not block._trains_lean(x)
