"""Several processes, or several micro-batches one after another, as one step: who draws what, and what is averaged.

Two processes take the same step as one that accumulates two micro-batches: each micro-batch is augmented, mixed and
dropped by its own place in the run, gradients are averaged, and so is what batch norms remember.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from coatnet.errors import ConfigError
from coatnet.ranks import average, is_joined, rank, world_size
from coatnet.training.config import RunConfig
from coatnet.training.sharding import is_sharded, shard


def num_parts(run: RunConfig) -> int:
    """Micro-batches of a step, of all processes together.

    Raises:
        ConfigError: the batch cannot be cut into so many.
    """
    assert run.accumulate != "auto"  # settled before the first step
    parts = world_size() * run.accumulate
    if run.batch_size % parts:
        raise ConfigError(
            f"batch_size {run.batch_size} is no multiple of {parts}: {world_size()} processes times accumulate "
            f"{run.accumulate}",
            f"take {run.batch_size // parts * parts or parts}, or another number of processes",
        )
    return parts


def own_parts(run: RunConfig) -> range:
    """Which of them this process computes."""
    assert run.accumulate != "auto"
    return range(rank() * run.accumulate, (rank() + 1) * run.accumulate)


def parallel(model: nn.Module, run: RunConfig, device: torch.device) -> nn.Module:
    """The network as several processes call it: backward averages the gradients over them. For one, the network."""
    if not is_joined():
        return model
    if run.shard == "parameters":
        shard(model, device)
        return model
    # Batch norms are averaged by `RunningStatistics`; buffers of rank 0 would only be one process's.
    return DistributedDataParallel(model, broadcast_buffers=False)


def keep_to_itself(network: nn.Module) -> AbstractContextManager[None]:
    """Backward passes in this context leave the gradients to the process: those of all but its last micro-batch."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return _unshared_gradients(network) if is_sharded(network) else nullcontext()


@contextmanager
def _unshared_gradients(network: Any) -> Iterator[None]:
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


class RunningStatistics:
    """Means and variances that batch norms remember, averaged over the micro-batches of a step.

    Each micro-batch starts from the same statistics: what they become does not depend on their order, nor on which
    process computes them.

    Args:
        model: the network. Its buffers are looked up anew for each step: any of them may have been replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def begin(self) -> None:
        """Before a step."""
        running = list(_running(self._model))
        self._counters = [buffer for buffer in running if not buffer.is_floating_point()]
        self._buffers = [buffer for buffer in running if buffer.is_floating_point()]
        self._counts = [counter.clone() for counter in self._counters]
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums: list[Tensor] = []
        self._own = 0

    def note(self, last: bool) -> None:
        """After the backward pass of a micro-batch, the last one of the step or another."""
        self._own += 1
        if last and self._own == 1:
            return  # a step of one micro-batch: they are what they should be
        if not self._sums:
            self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        for buffer, before, total in zip(self._buffers, self._before, self._sums, strict=True):
            total += buffer
            buffer.copy_(before)
        if not last:  # a step counts once
            self._restore_counts()

    def finish(self) -> None:
        """After the last micro-batch."""
        for buffer, total in zip(self._buffers, self._sums, strict=False):
            buffer.copy_(total / self._own)
        average(self._buffers)

    def forget(self) -> None:
        """After the last micro-batch, as if the step had not been."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        self._restore_counts()

    def _restore_counts(self) -> None:
        for counter, count in zip(self._counters, self._counts, strict=True):
            counter.copy_(count)


def _running(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            yield from (module.running_mean, module.running_var, module.num_batches_tracked)
