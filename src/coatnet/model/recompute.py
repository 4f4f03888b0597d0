"""Blocks whose maps are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(stage: nn.Module, x_BHWC: Tensor) -> Tensor:
    """What the stage gives, and the same gradients and running statistics, with only the input of each block kept.

    Args:
        stage: its children are blocks, one after the other.
        x_BHWC: `(B, H, W, C)`.
    """
    for block in stage.children():
        spare = partial(_contexts, block)
        x_BHWC = checkpoint(block, x_BHWC, use_reentrant=False, context_fn=spare)
    return x_BHWC


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first pass, and of the second."""
    return nullcontext(), _spare_statistics(block)


@contextmanager
def _spare_statistics(block: nn.Module) -> Iterator[None]:
    """What batch norms remember goes to copies: the first pass has told them of these images already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    real = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, real, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, real, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
