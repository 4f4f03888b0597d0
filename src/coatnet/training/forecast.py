"""What a run will cost, from a few timed steps: steps, time, memory. Nothing is written."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from coatnet.data.sources import Splits, open_data
from coatnet.errors import Stopped
from coatnet.ranks import joined
from coatnet.runtime.timing import peak_memory
from coatnet.training.config import TrainConfig
from coatnet.training.length import Pace
from coatnet.training.memory import capacity
from coatnet.training.signals import StopRequestedError, StopSignal
from coatnet.training.start import measure, prepare, ready_machine

REPORT_SECONDS = 2.0
"""Writing the classifier, the plots and the report on two idle cores of a Xeon (benchmarks/forecast.md)."""


@dataclass(frozen=True)
class Forecast:
    """A run that was not done."""

    config: TrainConfig
    """Length and micro-batches settled."""
    num_images: int
    """Training images."""
    pace: Pace
    preparation: float
    """Seconds before the first step: opening and decoding the data."""
    memory: int
    """Bytes that the process holds at its peak, decoded images included; on a GPU those of the GPU."""
    capacity: int
    """Bytes that are free there, and those that this process holds."""
    device: str

    @property
    def evaluations(self) -> int:
        """On the validation split, in the whole run."""
        run = self.config.run
        assert run.steps
        assert run.evaluate_every
        return math.ceil(run.steps / run.evaluate_every)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        assert self.config.run.steps
        steps = self.config.run.steps * self.pace.step + self.evaluations * self.pace.evaluation
        return self.preparation + steps + self.pace.final + REPORT_SECONDS


def forecast(config: TrainConfig, splits: Splits | None = None) -> Forecast:
    """Try some steps of a run and some images of its evaluations.

    Args:
        config: what `train` would do.
        splits: the data of the config, if it is open already.

    Raises:
        CoatnetError: what `train` would raise before its first step.
    """
    device = ready_machine(config)
    with joined(), StopSignal() as stop:
        try:
            with stop.interruptible():
                started = time.perf_counter()
                splits = splits or open_data(config.data, None, config.class_names)
                settled, stream, pace = prepare(config, device, splits)
                preparation = time.perf_counter() - started
                pace = pace or measure(settled, device, stream, splits)
        except StopRequestedError:
            raise Stopped("stopped", "nothing was written; start it again") from None
        memory = peak_memory(device)
        return Forecast(settled, len(stream), pace, preparation, memory, capacity(device), str(device))
