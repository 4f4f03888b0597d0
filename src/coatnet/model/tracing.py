"""Who else follows the operations of a network than plain autograd: compilers, tracers, transforms of functions."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_traced() -> bool:
    """Whether anyone does: hand-written formulas are then left out."""
    return torch.compiler.is_compiling() or is_exported() or is_transformed()


def is_exported() -> bool:
    """Whether torch.export or torch.jit.trace writes a network down, for other sizes of images too: no sizes may then
    decide what is done."""
    exported: bool = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return exported


def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jacrev, jvp) or forward-mode differentiation is at work."""
    transformed: bool = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return transformed
