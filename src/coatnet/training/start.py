"""Before the first step: a step must fit into memory, the length becomes steps, the batches stand ready."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from coatnet.classifier import Classifier
from coatnet.data.loader import TrainingStream
from coatnet.data.sources import Splits
from coatnet.errors import ConfigError
from coatnet.evaluation.evaluate import evaluate
from coatnet.model.guests import GuestConfig, check_guest
from coatnet.ranks import from_main, world_size
from coatnet.runtime.compiled_engine import check_compiler
from coatnet.runtime.engines import TorchEngine, find_device
from coatnet.training.config import TrainConfig
from coatnet.training.length import Pace, resolve_length, set_pace
from coatnet.training.log import check_tensorboard
from coatnet.training.machine import fix_order_of_sums, keep_freed_memory
from coatnet.training.memory import fit
from coatnet.training.parallel import num_parts, own_parts
from coatnet.training.signals import StopSignal
from coatnet.training.trainer import Trainer

UNTIMED_STEPS, TIMED_STEPS = 3, 12
"""Steps in which caches and memory settle, and steps that are timed after them."""
TIMED_IMAGES = 512
"""Images of an evaluation that are timed."""


class Start(NamedTuple):
    """What a run starts with."""

    config: TrainConfig
    """Length, pace and micro-batches settled."""
    stream: TrainingStream
    pace: Pace | None
    """Measured where it was needed: for a time budget."""


def ready_machine(config: TrainConfig) -> torch.device:
    """See that what a run asks of the machine is there, before anything is read, and make it ready.

    Returns:
        Where the network lives.

    Raises:
        ConfigError: several processes or GPUs are needed and are not there, or a guest does not work at its image size.
        MissingPartError: a device, TensorBoard or a compiler is asked for and not there.
    """
    run, device = config.run, find_device(config.run.device)
    if run.tensorboard:
        check_tensorboard()
    several = f"{world_size()} process{'es' if world_size() > 1 else ''} on {device.type}"
    if run.sync_batch_norm and (world_size() == 1 or device.type != "cuda"):
        raise ConfigError(f"sync_batch_norm joins several GPUs, and this is {several}", "leave it out")
    if run.compile:
        check_compiler(device)
    if isinstance(config.model, GuestConfig):
        check_guest(config.model)
    if run.deterministic:
        fix_order_of_sums()
    keep_freed_memory()
    return device


def prepare(config: TrainConfig, device: torch.device, splits: Splits) -> Start:
    """Settle what a run leaves open. The same for every process.

    Raises:
        ConfigError: the time budget is too short, or parameters are to be shared out to one process.
        ResourceError: a step does not fit into memory.
    """
    if config.run.shard == "parameters" and world_size() == 1:  # a run that began so may go on in one
        raise ConfigError("shard parameters needs several processes", "start it with torchrun, or leave it out")
    config = from_main(fit(config, device))
    stream = stream_of(config, splits)
    pace = measure(config, device, stream, splits) if config.run.time is not None else None
    run = set_pace(resolve_length(config.run, len(stream), pace), len(stream))
    choices = config.choices
    if config.run.steps is None:
        assert run.steps is not None
        epochs = run.steps * run.batch_size / len(stream)
        choices = (*choices, f"length: {run.steps} steps, {epochs:.1f} epochs")
    return Start(from_main(config.replace(run=run, choices=choices)), stream, pace)


def stream_of(config: TrainConfig, splits: Splits) -> TrainingStream:
    """The batches of a run."""
    return TrainingStream(
        splits.train,
        config.preprocess,
        config.augmentation,
        seed=config.run.seed,
        batch_size=config.run.batch_size,
        parts=num_parts(config.run),
        own=own_parts(config.run),
        workers=config.data.workers,
        max_bad=config.data.max_bad,
    )


def measure(config: TrainConfig, device: torch.device, stream: TrainingStream, splits: Splits) -> Pace:
    """Time some real steps, and some images of each kind of evaluation, with a network that is thrown away."""
    # Any length will do for the trial, and any weights.
    steps = UNTIMED_STEPS + TIMED_STEPS
    trial = Trainer(config.replace(run=config.run.replace(epochs=None, time=None, steps=steps)), device)
    ends = []
    batches = stream.batches(0, steps)
    for own in iter(lambda: list(itertools.islice(batches, len(stream.own))), []):
        trial.step(own)  # ends when its gradient was seen to be finite
        ends.append(time.perf_counter())
    per_step = (ends[-1] - ends[UNTIMED_STEPS - 1]) / TIMED_STEPS
    val, (final, split) = splits.val, splits.final
    stop = StopSignal()
    sample = val.subset(range(min(TIMED_IMAGES, len(val))))
    per_image = _second_time(lambda: trial.evaluate("raw", sample, "val", stop)) / len(sample)
    classifier = Classifier(TorchEngine(trial.network_of("raw"), str(device)), config.preprocess, config.class_names)
    last = final.subset(range(min(TIMED_IMAGES, len(final))))
    per_final = _second_time(lambda: evaluate(classifier, last, split=split)) / len(last)
    scored = len(val) * len(trial.weights) + min(config.run.evaluate_train, len(splits.train))
    first = per_image * len(val) if config.initial else 0.0
    return Pace(per_step, per_image * scored, first + per_final * len(final))


def _second_time(action: Callable[[], object]) -> float:
    """Seconds that something takes when it is done again: the first time warms up."""
    action()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
