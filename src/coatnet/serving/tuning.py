"""How many threads and which batch are right for this machine: a short measurement."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from coatnet.classifier import Classifier
from coatnet.errors import ConfigError
from coatnet.runtime.engines import TorchEngine
from coatnet.runtime.timing import time_in_turn

SECONDS = 4.0
"""The measurement ends about here: a start that takes longer annoys, and coatnet_0 at 224 px needs no more."""
BATCHES = (1, 2, 4, 8, 16, 32)
LONGEST_BATCH = 0.5
"""Seconds: everyone in the queue waits for the batch before, so a batch must not take long."""
WORTH = 0.95
"""More threads or a larger batch must bring 5 %: more than what repeated measurements differ by, and a smaller batch
answers sooner."""


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and how fast it is."""

    threads: int
    """Threads of the engine; 0 where the engine chooses them itself."""
    batch_size: int
    """Images in a batch."""
    seconds: float
    """Of such a batch, without decoding."""

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.batch_size / self.seconds


def tune(classifier: Classifier, threads: int | None, batch_size: int | None) -> Tuned:
    """Choose what is not given, by measuring.

    Args:
        classifier: what to run.
        threads: how many, if it is settled.
        batch_size: most images in a batch, if it is settled.

    Raises:
        ConfigError: threads for an engine that chooses them itself.
    """
    end = time.monotonic() + SECONDS
    chosen = _choose_threads(classifier, threads, end)
    found: dict[int, float] = {}
    for size in (batch_size,) if batch_size else BATCHES:
        if found and (time.monotonic() > end or max(found.values()) * 2 > LONGEST_BATCH):
            break
        found[size] = _measure(classifier, size)
    best = max(size / seconds for size, seconds in found.items())
    size, seconds = next((size, seconds) for size, seconds in found.items() if size / seconds >= WORTH * best)
    return Tuned(chosen, size, seconds)


def apply_threads(classifier: Classifier, threads: int) -> None:
    """Let the engine compute with so many threads; an engine that is not torch on a CPU chooses them itself."""
    if _has_threads(classifier):
        import torch

        torch.set_num_threads(threads)


def _has_threads(classifier: Classifier) -> bool:
    return isinstance(classifier.engine, TorchEngine) and classifier.engine.device.type == "cpu"


def _choose_threads(classifier: Classifier, threads: int | None, end: float) -> int:
    if not _has_threads(classifier):
        if threads is not None:
            raise ConfigError(
                f"--threads {threads}: this runtime chooses them itself", "leave it out, or --runtime torch"
            )
        return 0
    if threads is None:
        best = np.inf
        num_cores = _num_cores()
        for count in [*(power for power in (1, 2, 4, 8, 16, 32, 64) if power < num_cores), num_cores]:
            apply_threads(classifier, count)
            seconds = _measure(classifier, 1)
            if seconds < WORTH * best:
                threads, best = count, seconds
            if time.monotonic() > end:
                break
    assert threads is not None
    apply_threads(classifier, threads)
    return threads


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure(classifier: Classifier, batch_size: int) -> float:
    """Seconds of a batch: the best of three after one to warm up, or that one alone if it is too long anyway."""
    images = np.zeros((batch_size, 3, *classifier.preprocess.image_size), np.float32)
    batch = {batch_size: lambda: classifier.engine.logits(images)}
    (first,) = time_in_turn(batch, 1, warm_up=0)[batch_size].seconds
    if first > LONGEST_BATCH:
        return first
    return min(time_in_turn(batch, 3, warm_up=0)[batch_size].seconds)
