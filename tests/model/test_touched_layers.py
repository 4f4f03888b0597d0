"""What other people's code does to a layer takes effect while the network trains on a CPU."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import update_bn

from coatnet.model.config import CoAtNetConfig
from coatnet.model.mbconv import MBConv
from model.test_expanded import plain_forward, randomised

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32))
STOOD_FOR = ["expand", "expand_norm", "depthwise", "squeeze_excitation", "shrink"]
"""The layers whose work the lean forms do themselves."""


@pytest.fixture
def block() -> MBConv:
    return randomised(MBConv(CONFIG, input_width=4, width=4)).double().train()  # type: ignore[return-value]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 4, 4, dtype=torch.float64)  # 20 places, more than twice 4: the gate goes into the weights


class LowRank(nn.Linear):
    """A layer with an adapter, as LoRA puts in place of a dense one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 2.0


def replaced(block: MBConv) -> None:
    block.shrink = LowRank(block.shrink.in_features, block.shrink.out_features).double()


def another_forward(block: MBConv) -> None:
    usual = block.depthwise.forward
    block.depthwise.forward = lambda x: 2 * usual(x)  # type: ignore[method-assign]


def pruned(block: MBConv) -> None:
    prune.l1_unstructured(block.expand, "weight", 0.5)


def parametrized(block: MBConv) -> None:
    parametrizations.weight_norm(block.depthwise)


def circular(block: MBConv) -> None:
    block.depthwise.padding_mode = "circular"


def without_bias(block: MBConv) -> None:
    block.shrink.bias = None


def no_statistics(block: MBConv) -> None:
    block.expand_norm.track_running_stats = False
    block.expand_norm.running_mean = block.expand_norm.running_var = None


def statistics_kept_but_not_moved(block: MBConv) -> None:
    block.expand_norm.track_running_stats = False


def no_count_of_batches(block: MBConv) -> None:
    block.expand_norm.num_batches_tracked = None


def norm_without_bias(block: MBConv) -> None:
    block.expand_norm.bias = None


class Tripled(Tensor):
    """A weight with a dense layer of its own, as quantized weights have."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            return 3 * func(*(one.as_subclass(Tensor) for one in args if one is not None))
        return super().__torch_function__(func, types, args, kwargs)


def weight_of_another_class(block: MBConv) -> None:
    block.shrink.weight = nn.Parameter(block.shrink.weight.detach().as_subclass(Tripled))


def without_norm(block: MBConv) -> None:
    block.expand_norm = nn.Identity()


CHANGES = [
    replaced,
    another_forward,
    pruned,
    parametrized,
    circular,
    without_bias,
    without_norm,
    weight_of_another_class,
]
NORM_CHANGES = [no_statistics, statistics_kept_but_not_moved, no_count_of_batches, norm_without_bias]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_layer_takes_effect(block: MBConv, x: Tensor, change) -> None:
    before = copy.deepcopy(block)(x)
    change(block)
    found = block(x)
    block._trains_lean = lambda _: False  # type: ignore[method-assign]
    torch.testing.assert_close(found, block(x), rtol=1e-9, atol=1e-9)
    assert change is parametrized or not torch.allclose(found, before)


@pytest.mark.parametrize("change", NORM_CHANGES)
def test_a_norm_moves_the_statistics_that_it_keeps_and_no_others(block: MBConv, x: Tensor, change) -> None:
    change(block)
    plain = copy.deepcopy(block)
    plain._trains_lean = lambda _: False  # type: ignore[method-assign]
    torch.testing.assert_close(block(x), plain(x), rtol=1e-9, atol=1e-9)
    for name, buffer in block.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name), rtol=1e-9, atol=1e-9)


def test_norms_set_to_eval_neither_use_nor_move_statistics(block: MBConv, x: Tensor) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    found = block(x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.named_buffers())
    torch.testing.assert_close(found, block.eval()(x))


@pytest.mark.parametrize("name", STOOD_FOR)
def test_hooks_of_every_layer_fire(block: MBConv, x: Tensor, name: str) -> None:
    layer, seen = block.get_submodule(name), []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    block(x.requires_grad_()).sum().backward()
    assert seen == ["before", "after", "backward"]


def test_hooks_of_all_modules_fire_for_each(block: MBConv, x: Tensor) -> None:
    seen: list[nn.Module] = []
    hook = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        block(x)
    finally:
        hook.remove()
    assert {block.get_submodule(name) for name in STOOD_FOR} <= set(seen)


def test_statistics_for_averaged_weights_are_cumulative_means(block: MBConv, x: Tensor) -> None:
    plain = copy.deepcopy(block)
    plain._trains_lean = lambda _: False  # type: ignore[method-assign]
    batches = [x, 2 * x, x - 1]
    for one in (block, plain):
        update_bn(batches, one)
    for name, buffer in block.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name), rtol=1e-9, atol=1e-9)
    assert block.expand_norm.num_batches_tracked == 3


def penalty_gradients(block: MBConv, forward, x: Tensor) -> list[Tensor]:
    """Of the squared norm of the input's gradient, as in a gradient penalty."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(forward(x).square().sum(), x, create_graph=True)
    return list(torch.autograd.grad(slope.square().sum(), (x, *block.parameters()), allow_unused=True))


def test_gradients_of_gradients(block: MBConv, x: Tensor) -> None:
    assert block._trains_lean(x)
    found = penalty_gradients(block, block, x)
    plain = copy.deepcopy(block)
    expected = penalty_gradients(plain, lambda x: plain_forward(plain, x), x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch.func calls it
def test_transforms_of_functions(block: MBConv, x: Tensor) -> None:
    """Each sample by itself, its slope in a direction, and gradients, while training."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics of the batch, kept nowhere, as torch.func asks
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
            module.num_batches_tracked = None
    found, slope = torch.func.jvp(block, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(found, block(x))
    step = 1e-6
    torch.testing.assert_close(slope, (block(x + step) - block(x - step)) / (2 * step), rtol=1e-5, atol=1e-5)
    each = torch.func.vmap(lambda sample: block(sample[None])[0])(x)
    torch.testing.assert_close(each, torch.cat([block(sample[None]) for sample in x]))
    assert torch.func.jacrev(lambda x: block(x).sum())(x).shape == x.shape
