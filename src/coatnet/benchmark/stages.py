"""Where the time of a forward pass goes: stem, stages and head, each against the machine's ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coatnet.model.size import part_sizes
from coatnet.runtime.engines import Precision, TorchEngine
from coatnet.runtime.timing import WARM_UP, synchronize

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True)
class StageTime:
    """One part of the network."""

    name: str
    """S0 (the stem), S1, ..., head."""
    seconds: float
    """Median of a batch."""
    flops: float
    """Floating-point operations per second that it reached, a multiply-add counted as two."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"name": self.name, "seconds": self.seconds, "flops": self.flops}


def time_stages(
    model: nn.Module, images: NDArray[np.float32], device: torch.device, precision: Precision, rounds: int
) -> tuple[StageTime, ...]:
    """Time the parts of one of our networks in torch's eager form; nothing for a guest, whose parts are its own."""
    from coatnet.model.coatnet import CoAtNet

    if not isinstance(model, CoAtNet):
        return ()
    config = model.network_config
    engine = TorchEngine(model, str(device), precision)
    network = engine.model
    assert isinstance(network, CoAtNet)  # a copy of it
    starts: list[float] = []
    # A stage that continues another belongs to the same part.
    parts = [
        network.stem,
        *(s for s, of in zip(network.stages, config.stages, strict=True) if not of.continues),
        network.head,
    ]
    hooks = [part.register_forward_pre_hook(_noting(starts, device)) for part in parts]
    spans = []
    try:
        for number in range(WARM_UP + rounds):
            starts.clear()
            engine.logits(images)
            synchronize(device)
            if number >= WARM_UP:
                spans.append(np.diff([*starts, time.perf_counter()]))
    finally:
        for hook in hooks:
            hook.remove()
    sizes = part_sizes(config, *images.shape[2:])
    medians = np.median(spans, axis=0)
    return tuple(
        StageTime(name, float(seconds), 2 * len(images) * size.multiply_adds / float(seconds))
        for (name, size), seconds in zip(sizes.items(), medians, strict=True)
    )


def _noting(starts: list[float], device: torch.device) -> Callable[..., None]:
    def note(*_: object) -> None:
        synchronize(device)
        starts.append(time.perf_counter())

    return note
