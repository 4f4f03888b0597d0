"""What the training loop takes beside the bare step: data, augmentation, logging, average of the weights, checks.

    python benchmarks/loop_overhead.py digits [MORE DATA ...]

One run of the recipe's choices, on each data set, seen in two ways:

- After some steps of its loop some bare steps are timed, of the same network on one batch that lies ready: forward,
  backward, clipping, AdamW. So both see the same machine. The first steps of each turn, for which the workers had time
  to work ahead, do not count. A difference of two times: other programs on the machine show in it.
- In the steps of the loop, the time that is spent outside of forward, loss, backward, clipping and AdamW; and in the
  bare steps, of which that is no work of a loop: memory of maps and gradients is freed there too.

Beside both, the processor time of the workers.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from coatnet.data.loader import Batch
from coatnet.model.family import create_model
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.loop import train
from coatnet.training.optimizer import create_optimizer
from coatnet.training.recipes import small_data
from coatnet.training.trainer import Normaliser, Trainer

ROUNDS, LOOP_STEPS, UNCOUNTED_LOOP, BARE_STEPS, UNCOUNTED_BARE = 8, 14, 5, 10, 2


class Bare:
    """The step without a loop."""

    def __init__(self, config: TrainConfig, batch: Batch, precision: str, clock: "Clock") -> None:
        self.model = create_model(config.model).train()
        self.forward, self.loss = clock.of(self.model), clock.of(nn.functional.cross_entropy)
        self.optimizer = clock.of_optimizer(create_optimizer(self.model, config.optimizer))
        self.images = Normaliser(config.preprocess, torch.device("cpu"))(batch.images)
        self.labels, self.half, self.clip = batch.labels, precision == "bfloat16", config.optimizer.gradient_clip

    def step(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            logits = self.forward(self.images)
        torch.autograd.backward(self.loss(logits.float(), self.labels))
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


class Measured(NamedTuple):
    """Seconds of a step, one entry for each round."""

    loop: list[float]
    core: list[float]
    """Of that, what a bare step does too."""
    bare: list[float]
    bare_core: list[float]
    workers: list[float]
    """Processor seconds of the workers so far."""


class Clock:
    """Sums what passes in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += time.perf_counter() - began

        return timed

    def of_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        optimizer.step, optimizer.zero_grad = self.of(optimizer.step), self.of(optimizer.zero_grad)
        return optimizer


def measure(data: str) -> tuple[TrainConfig, Measured]:
    config = lay_over(small_data(data), run={"steps": (ROUNDS + 1) * LOOP_STEPS + 1, "device": "cpu"})
    config = lay_over(config, run={"evaluate_every": config.run.steps, "save_every": config.run.steps})
    found, clock = Measured([], [], [], [], []), Clock()
    starts: list[float] = []
    cores: list[float] = []
    bare: list[Bare] = []
    real = Trainer.step, torch.autograd.backward, nn.utils.clip_grad_norm_

    def step(trainer: Trainer, batches: list[Batch]) -> object:
        if not bare:
            trainer.network, trainer.loss = clock.of(trainer.network), clock.of(trainer.loss)
            clock.of_optimizer(trainer.state.optimizer)
            torch.autograd.backward = clock.of(real[1])
            nn.utils.clip_grad_norm_ = clock.of(real[2])
            bare.append(Bare(config, batches[0], trainer.precision, clock))
        starts.append(time.perf_counter())
        cores.append(clock.seconds)
        if len(starts) == LOOP_STEPS + 1:
            found.loop.append(float(np.median(np.diff(starts)[UNCOUNTED_LOOP:])))
            found.core.append(float(np.median(np.diff(cores)[UNCOUNTED_LOOP:])))
            whole, core = np.median([timed(bare[0], clock) for _ in range(BARE_STEPS)][UNCOUNTED_BARE:], axis=0)
            found.bare.append(float(whole))
            found.bare_core.append(float(core))
            found.workers.append(children_seconds())
            starts[:], cores[:] = [time.perf_counter()], [clock.seconds]
        return real[0](trainer, batches)

    Trainer.step = step  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(config, Path(folder) / "run")
    finally:
        Trainer.step, torch.autograd.backward, nn.utils.clip_grad_norm_ = real  # type: ignore[method-assign]
    return config, Measured(*(rounds[1:] for rounds in found))  # the first round warms up


def timed(bare: Bare, clock: Clock) -> tuple[float, float]:
    """Seconds of a step, and those in its core."""
    started, core = time.perf_counter(), clock.seconds
    bare.step()
    return time.perf_counter() - started, clock.seconds - core


def children_seconds() -> float:
    """Processor seconds that the children of this process have taken so far."""
    ticks = 0
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        config, found = measure(name)
        ratios = np.array(found.loop) / np.array(found.bare)
        beside = np.array(found.loop) / np.array(found.core)
        beside_bare = np.array(found.bare) / np.array(found.bare_core)
        workers = (found.workers[-1] - found.workers[0]) / (len(found.workers) - 1) / LOOP_STEPS
        print(
            f"{Path(name).name}: {config.preprocess.image_size[0]} px, batch {config.run.batch_size}: "
            f"loop {np.median(found.loop):.4f} s, bare {np.median(found.bare):.4f} s, "
            f"loop to bare {np.median(ratios) - 1:+.1%} (rounds {ratios.min() - 1:+.1%} to {ratios.max() - 1:+.1%}); "
            f"in the loop beside its core {np.median(beside) - 1:+.1%} "
            f"(rounds {beside.min() - 1:+.1%} to {beside.max() - 1:+.1%}), "
            f"in the bare step {np.median(beside_bare) - 1:+.1%}; workers {workers:.4f} s of a processor",
            flush=True,
        )
