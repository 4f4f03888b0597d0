"""What MBConv does to its expanded maps while it trains on a CPU: the same numbers with fewer passes through memory.

There a step waits for the expanded maps, four times as wide as the block, to come from memory and go back
(benchmarks/model_speed.md). Each function here gives what the layers beside its name in mbconv.py give, and their
gradients, up to rounding.

Shapes: B batch, N = H * W places, I channels in, C expanded channels, O channels out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

_PARTS = 16
"""Of sums over all places of a batch: their rounding to bfloat16 then averages to a quarter."""
_GROUP_BYTES = 2**19
"""Of one sample, in the bfloat16 weight gradient of a depthwise convolution: oneDNN's kernel reads the sample once for
every 16 channels, half a cache line, so the sample must stay in the cache of a core (benchmarks/model_speed.md)."""
_LANES = 32
"""Channels of a cache line in bfloat16."""
_PLAIN = (Tensor, nn.Parameter)
"""Tensor classes whose operations are torch's own."""


def is_untouched(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of a layer runs the forward of `kind` in training mode, and nothing else.

    Not so if it was replaced, parametrized, set to `eval()`, given hooks (pruning and weight norm are hooks), another
    forward, or weights of a tensor class with operations of its own (as quantization does).
    """
    tensors = (*layer._parameters.values(), *layer._buffers.values())
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return (
        type(layer) is kind  # a parametrized layer has a class of its own
        and layer.training
        and "forward" not in vars(layer)
        and all(type(tensor) in _PLAIN for tensor in tensors if tensor is not None)
        and not any(hooks)
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def can_expand_and_norm(expand: nn.Module, norm: nn.Module) -> bool:
    """Whether `expand_and_norm` does what the two layers do."""
    return (
        is_untouched(expand, nn.Linear)
        and is_untouched(norm, nn.BatchNorm2d)
        and expand.bias is None
        and norm.track_running_stats  # if it was switched off, the buffers may still be there
        and norm.momentum is not None  # without one torch keeps a cumulative average (swa_utils.update_bn)
        and all(tensor is not None for tensor in (*norm._parameters.values(), *norm._buffers.values()))
    )


def can_convolve(convolution: nn.Module) -> bool:
    """Whether `depthwise` does what the layer does."""
    return (
        is_untouched(convolution, nn.Conv2d)
        and isinstance(convolution, nn.Conv2d)
        and convolution.bias is None
        and convolution.groups == convolution.in_channels == convolution.out_channels
        and (convolution.kernel_size, convolution.padding) == ((3, 3), (1, 1))
        and (convolution.stride, convolution.dilation, convolution.padding_mode) == ((1, 1), (1, 1), "zeros")
    )


def expand_and_norm(x_BNI: Tensor, expand: nn.Linear, norm: nn.BatchNorm2d) -> Tensor:
    """`norm(expand(x))` while training, running statistics included, without a pass over the expanded map for the norm.

    Mean and variance of a linear map of x follow from the mean and the covariance of x, so the norm becomes part of the
    weights before they are used.

    Args:
        x_BNI: `(B, N, I)`; normalised, as MBConv's are: the covariance is taken about zero first.
        expand: I to C channels, without bias.
        norm: over C channels.

    Returns: `(B, N, C)`.
    """
    if torch.is_autocast_enabled("cpu"):
        x_BNI = x_BNI.to(torch.get_autocast_dtype("cpu"))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    z_BNC, mean_C, variance_C = _ExpandNorm.apply(x_BNI, expand.weight, norm.weight, norm.bias, norm.eps)
    num_places = x_BNI.shape[0] * x_BNI.shape[1]
    with torch.no_grad():
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(variance_C * (num_places / (num_places - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return z_BNC


class _ExpandNorm(torch.autograd.Function):
    """z = (w x - mean) * scale / sqrt(variance + epsilon) + shift, for each of the C rows w of the weight."""

    @staticmethod
    def forward(  # noqa: PLR0913 (as torch calls it)
        ctx: Any, x_BNI: Tensor, weight_CI: Tensor, scale_C: Tensor, shift_C: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_places = x_BNI.shape[0] * x_BNI.shape[1]
        with torch.autocast("cpu", enabled=False):
            mean_I = _sum_of_places(x_BNI).to(weight_CI.dtype).sum(0) / num_places
            moment_II = _product(x_BNI.flatten(0, 1), x_BNI.flatten(0, 1), weight_CI.dtype) / num_places
            covariance_II = moment_II - torch.outer(mean_I, mean_I)
            mean_C = weight_CI @ mean_I
            covaried_CI = weight_CI @ covariance_II
            variance_C = (covaried_CI * weight_CI).sum(1).clamp(min=0)
            factor_C = torch.rsqrt(variance_C + epsilon)
            folded_CI = (scale_C * factor_C)[:, None] * weight_CI
            bias_C = shift_C - scale_C * factor_C * mean_C
            z_BNC = nn.functional.linear(x_BNI, folded_CI.to(x_BNI.dtype), bias_C.to(x_BNI.dtype))
        ctx.save_for_backward(x_BNI, weight_CI, scale_C, shift_C, mean_I, covaried_CI, factor_C)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean_C, variance_C)
        return z_BNC, mean_C, variance_C

    @staticmethod
    def backward(ctx: Any, dz_BNC: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BNI, weight_CI, scale_C, shift_C, mean_I, covaried_CI, factor_C = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated: torch's own formulas can be
            return _differentiable_gradients((x_BNI, weight_CI, scale_C, shift_C), ctx.epsilon, dz_BNC)
        num_places = x_BNI.shape[0] * x_BNI.shape[1]
        with torch.autocast("cpu", enabled=False):
            x_MI, dz_MC = x_BNI.flatten(0, 1), dz_BNC.flatten(0, 1)  # M = B * N
            dshift_C = _sum_of_places(dz_BNC).to(weight_CI.dtype).sum(0)
            product_CI = _product(dz_MC, x_MI, weight_CI.dtype) - torch.outer(dshift_C, mean_I)
            dfactor_C = (product_CI * weight_CI).sum(1)
            dvariance_C = -0.5 * scale_C * dfactor_C * factor_C**3
            folded_CI = (scale_C * factor_C)[:, None] * weight_CI
            dweight_CI = (scale_C * factor_C)[:, None] * product_CI + 2 * dvariance_C[:, None] * covaried_CI
            # Through the covariance and the mean: linear in x.
            slope_II = weight_CI.t() @ (dvariance_C[:, None] * weight_CI) * (2 / num_places)
            offset_I = -(dshift_C @ folded_CI) / num_places - mean_I @ slope_II
            statistics_MI = torch.addmm(offset_I.to(x_MI.dtype), x_MI, slope_II.to(x_MI.dtype))
            dx_MI = torch.addmm(statistics_MI, dz_MC, folded_CI.to(x_MI.dtype))
        return dx_MI.view_as(x_BNI), dweight_CI, factor_C * dfactor_C, dshift_C, None


def _differentiable_gradients(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor], epsilon: float, dz_BNC: Tensor
) -> tuple[Tensor | None, ...]:
    """What `_ExpandNorm.backward` gives, through the layers one by one, with a graph."""
    x_BNI, weight_CI, scale_C, shift_C = inputs
    inner_BNC = functional.linear(x_BNI, weight_CI.to(x_BNI.dtype))
    z_MC = functional.batch_norm(inner_BNC.flatten(0, 1), None, None, scale_C, shift_C, True, eps=epsilon)
    trained = [tensor for tensor in inputs if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(z_MC.view_as(dz_BNC), trained, dz_BNC, create_graph=True))
    return (*(next(gradients) if tensor.requires_grad else None for tensor in inputs), None)


def _product(left_MP: Tensor, right_MQ: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over M of products, `(P, Q)` in `dtype`: in parts, each of which is rounded to the precision of the
    factors, since differences of such sums are needed."""
    parts = math.gcd(left_MP.shape[0], _PARTS)
    left, right = (factor.view(parts, -1, factor.shape[1]) for factor in (left_MP, right_MQ))
    return torch.bmm(left.transpose(1, 2), right).sum(0, dtype=dtype)


def _sum_of_places(x_BNC: Tensor) -> Tensor:
    """The sum over N, `(B, C)`: as a matrix product, which reads a map faster than torch's sum."""
    return torch.bmm(x_BNC.new_ones(1, 1, x_BNC.shape[1]).expand(x_BNC.shape[0], -1, -1), x_BNC)[:, 0]


def depthwise(x_BHWC: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A depthwise convolution of stride 1, 3x3, without bias.

    Args:
        x_BHWC: `(B, H, W, C)`.
        convolution: of C channels.

    Returns: `(B, H, W, C)`.
    """
    weight = convolution.weight
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x_BHWC, weight = x_BHWC.to(dtype), weight.to(dtype)
    return _Depthwise.apply(x_BHWC.permute(0, 3, 1, 2), weight).permute(0, 2, 3, 1)


class _Depthwise(torch.autograd.Function):
    """Torch's own forward, and a backward that suits the caches."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight)
        return nn.functional.conv2d(x_BCHW, weight, padding=1, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dy_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x_BCHW, weight = ctx.saved_tensors
        channels, height, width = x_BCHW.shape[1:]
        # The gradient of the input is the convolution with the turned filter, which is faster than torch's formula.
        dx_BCHW = nn.functional.conv2d(dy_BCHW, weight.flip(2, 3), padding=1, groups=channels)
        size = channels
        if x_BCHW.dtype == torch.bfloat16:
            bytes_of_channel = height * width * x_BCHW.element_size()
            size = max(_LANES, _GROUP_BYTES // bytes_of_channel // _LANES * _LANES)
        groups = zip(
            *(torch.split(part, size, dim) for part, dim in ((dy_BCHW, 1), (x_BCHW, 1), (weight, 0))), strict=True
        )
        return dx_BCHW, torch.cat([_weight_gradient(*group) for group in groups])


def _weight_gradient(dy_BCHW: Tensor, x_BCHW: Tensor, weight: Tensor) -> Tensor:
    layout, ones = torch.channels_last, [1, 1]
    _, gradient, _ = torch.ops.aten.convolution_backward(
        dy_BCHW.contiguous(memory_format=layout),
        x_BCHW.contiguous(memory_format=layout),
        weight,
        None,
        ones,
        ones,
        ones,
        False,
        [0, 0],
        len(weight),
        [False, True, False],
    )
    return gradient


def gated_dense(x_BNC: Tensor, gate_BC: Tensor, dense: nn.Linear) -> Tensor:
    """`dense(x * gate)`: the gate goes into the weights, of each sample, instead of the map.

    Args:
        x_BNC: `(B, N, C)`.
        gate_BC: `(B, C)`.
        dense: C to O channels.

    Returns: `(B, N, O)`.
    """
    weight_BCO = dense.weight.t() * gate_BC[:, :, None]
    return torch.baddbmm(dense.bias, x_BNC, weight_BCO)
