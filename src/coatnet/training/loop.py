"""The one training loop: scratch, fine-tuning, resume, later study. Variants are data, not files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from coatnet.data.loader import Batch, TrainingStream
from coatnet.data.samples import printable
from coatnet.data.sources import Source, Splits, open_data, same_classes, stored_path
from coatnet.errors import DataError, ModelFileError, Stopped
from coatnet.evaluation.metrics import Evaluation
from coatnet.model.config import CoAtNetConfig
from coatnet.model.size import model_size
from coatnet.ranks import any_rank, from_main, gathered, is_joined, is_main, joined, wait_for_all
from coatnet.training.changes import check_same_everywhere
from coatnet.training.checkpoint import load_newest, room_in_newest, save_checkpoint
from coatnet.training.claim import held
from coatnet.training.config import TrainConfig
from coatnet.training.folder import RunFolder, claimed
from coatnet.training.length import is_due
from coatnet.training.log import TRAIN_SAMPLE, Meter, RunLog, SilentLog
from coatnet.training.machine import describe
from coatnet.training.memory import check_state
from coatnet.training.probe import start_from
from coatnet.training.results import report, save_classifier, take_score
from coatnet.training.signals import StopRequestedError, StopSignal
from coatnet.training.start import prepare, ready_machine, stream_of
from coatnet.training.trainer import Trainer, rank

Watch = Callable[[int, Evaluation], None]
"""Told of each evaluation on the validation split, with the steps done; what it raises ends the run as it stands."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    classifier: Path
    """The classifier folder in it."""
    evaluation: Evaluation
    """Final scores: on the test split, else on validation; `evaluation.split` says which."""


@dataclass(frozen=True)
class _Work:
    """What a run works with, from start to end."""

    config: TrainConfig
    device: torch.device
    folder: RunFolder
    splits: Splits
    stream: TrainingStream
    stop: StopSignal
    watch: Watch | None
    notes: tuple[str, ...] = ()
    """What to say before the first step."""


def train(  # noqa: PLR0913 (options are keywords)
    config: TrainConfig,
    folder: Path | str | None = None,
    *,
    splits: Splits | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch | None = None,
) -> Run:
    """Train from the start and write a run folder.

    Args:
        config: what to do, from a recipe.
        folder: where to; must be empty or absent unless `overwrite`. Default: a new one below runs/.
        splits: the data of the config, if it is open already.
        overwrite: remove the run that is there, once it is sure that the new one can start.
        command: what the user typed, for environment.json.
        watch: told of each evaluation.

    Raises:
        ConfigError: the folder is not empty or in use by another process, or the run needs several processes.
        DataError: the data cannot be read, or too much of it; or it has other classes than the config.
        MissingPartError: a device, TensorBoard or a compiler is asked for and not there.
        QualityError: training diverged.
        ResourceError: a step does not fit into memory; out of disk.
        Stopped: a signal came; what was done is saved.
    """
    device = ready_machine(config)
    place = None if folder is None else Path(folder)
    with ExitStack() as stack:
        stack.enter_context(joined())
        stop = stack.enter_context(StopSignal())
        if is_main():  # the processes of a run are one holder
            place = stack.enter_context(claimed(place, config.data.path, overwrite)).path
        place = from_main(place)
        assert place is not None  # the main process has one
        run_folder = RunFolder(place)
        try:
            with stop.interruptible():
                splits = _opened(config, splits)
                config, initial = start_from(config, splits.train, device)  # first: it proves where it comes from
                config, stream, _ = prepare(config, device, splits)
        except StopRequestedError:
            raise Stopped("stopped before the first step", "nothing was written; start it again") from None
        if is_main():
            run_folder.make_empty()
            run_folder.write_start(config, splits, describe(device, command), initial)
        wait_for_all()
        try:
            return _run(_Work(config, device, run_folder, splits, stream, stop, watch))
        except DataError:
            if is_main():
                run_folder.forget()
            raise


def resume(folder: Path | str, *, data: str | None = None, watch: Watch | None = None) -> Run:
    """Go on with a run that stopped: the same steps as if it had not, bit for bit on the same machine.

    Args:
        folder: the run folder.
        data: where its data is now, if that moved; stored with the run.
        watch: told of each evaluation.

    Raises:
        ModelFileError: no run is there, or all its checkpoints are damaged.
        ConfigError: another process is at it.
        DataError: the data has other classes than when the run began, or lacks images of the run's own split.
        CoatnetError: as `train`, for the rest.
    """
    run_folder = RunFolder(Path(folder))
    config = run_folder.read_config()
    if data is not None:
        config = config.replace(data=config.data.replace(path=stored_path(data)))
    device = ready_machine(config)
    with ExitStack() as stack:
        stack.enter_context(joined())
        stop = stack.enter_context(StopSignal())
        if is_main():
            stack.enter_context(held(run_folder.path))
        try:
            with stop.interruptible():
                _check_network(config, device, run_folder)
                splits = run_folder.open_data(config)
                check_same_everywhere(splits)
                stream = stream_of(config, splits)
        except StopRequestedError:
            raise Stopped("stopped before the first step", f"coatnet resume {folder}") from None
        notes = splits.notes
        if is_main():
            notes += run_folder.mend(config, describe(device, ""))
        return _run(_Work(config, device, run_folder, splits, stream, stop, watch, notes))


def _check_network(config: TrainConfig, device: torch.device, folder: RunFolder) -> None:
    """See that a stored config describes the network that was trained, before anything of its size is reserved."""
    room = room_in_newest(folder.checkpoints)
    if room is None or not isinstance(config.model, CoAtNetConfig):
        check_state(config, device)
    elif model_size(config.model).parameters > room:
        raise ModelFileError(
            f"{folder.config} describes a network of more parameters than its checkpoints hold, {room}",
            "the file was changed: restore it",
        )


def _opened(config: TrainConfig, splits: Splits | None) -> Splits:
    """The data of a new run, with the labels of its config, and the same for each process."""
    if splits is None:
        splits = open_data(config.data, None, config.class_names)
    else:
        train, val = (same_classes(one, config.class_names) for one in (splits.train, splits.val))
        test = None if splits.test is None else same_classes(splits.test, config.class_names)
        splits = replace(splits, train=train, val=val, test=test)
    check_same_everywhere(splits)
    return splits


def _run(work: _Work) -> Run:
    """Steps, evaluations and checkpoints until the end, then what the run leaves."""
    folder, run = work.folder, work.config.run
    trainer = Trainer(work.config, work.device, folder.initial if work.config.initial else None)
    state = trainer.state
    assert run.steps is not None
    damaged = load_newest(state, folder.checkpoints)
    wait_for_all()  # before the main process writes another checkpoint
    epoch = len(work.stream) / run.batch_size
    shown = (
        RunLog(folder.path, run.steps, state, tensorboard=run.tensorboard, epoch=epoch) if is_main() else SilentLog()
    )
    with shown as log:
        for line in (*work.notes, *damaged, *_passed_over(work.stream.unreadable)):
            log.say(line)
        try:
            _steps(work, trainer, log)
            if work.config.keeps_best:
                of = f"step {state.best_step}" if state.best_step else "the initial weights"
                log.say(f"the classifier is that of {of}, the best on validation")
            classifier = save_classifier(trainer.chosen, str(trainer.device), work.config, folder)
            evaluation = take_score(classifier, work.splits, folder, work.stop.is_asked)
        except (Stopped, StopRequestedError):
            save_checkpoint(state, folder.checkpoints, run.keep_checkpoints)
            wait_for_all()
            raise Stopped(
                f"stopped after step {state.step} of {run.steps}; everything is saved", f"coatnet resume {folder.path}"
            ) from None
    if is_main():
        report(work.config, folder, work.splits, evaluation, (state.seconds, work.stream.unreadable))
    wait_for_all()
    return Run(folder.path, folder.classifier, evaluation)


def _steps(work: _Work, trainer: Trainer, log: RunLog | SilentLog) -> None:
    """The steps that are left."""
    state, run = trainer.state, work.config.run
    assert run.steps
    assert run.evaluate_every
    assert run.save_every
    assert run.log_every
    meter = Meter(run.batch_size)
    if is_due(state.step, run.evaluate_every, run.steps) and (state.step or work.config.initial):
        _evaluate(work, trainer, log)  # of first weights; later a stop may have come between the step and this
    batches = work.stream.batches(state.step, run.steps)
    while state.step < run.steps and not _is_over(work, trainer):
        started = time.monotonic()
        own = _next(batches, len(work.stream.own), work.stop)
        waited = time.monotonic() - started
        loss = trainer.step(own)
        meter.add(waited, time.monotonic() - started)
        if loss is None:
            log.say(f"step {state.step}: the gradient is not finite, nothing was updated")
        else:
            state.losses.append(loss)
        if is_due(state.step, run.log_every, run.steps):
            _log(trainer, meter, log)
        if is_due(state.step, run.evaluate_every, run.steps):
            _evaluate(work, trainer, log)
        state.seconds += time.monotonic() - started
        if is_due(state.step, run.save_every, run.steps):
            save_checkpoint(state, work.folder.checkpoints, run.keep_checkpoints)
        unreadable = [entry for batch in own for entry in batch.unreadable]
        stopping, found = any_rank(work.stop.asked, bool(unreadable))
        if found:
            _pass_over(work.stream, unreadable, log)
        if stopping:
            raise StopRequestedError
    if state.step < run.steps:
        log.say(f"step {state.step}: no better evaluation in {state.stale}, the run ends early")


def _next(batches: Iterator[Batch], count: int, stop: StopSignal) -> list[Batch]:
    """This process's micro-batches of the next step. Alone it may break off the wait; of several none may leave."""
    if is_joined():
        return [next(batches) for _ in range(count)]
    with stop.interruptible():
        return [next(batches) for _ in range(count)]


def training_sample(train: Source, count: int) -> Source:
    """Some training images, spread evenly over the source: the same whenever they are asked for."""
    return train.subset(np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)))


def _is_over(work: _Work, trainer: Trainer) -> bool:
    """Whether the validation accuracy has stopped to rise for as long as the run is patient."""
    patience = work.config.run.patience
    return patience is not None and trainer.state.stale >= patience


def _pass_over(stream: TrainingStream, own: list[tuple[str, str]], log: RunLog | SilentLog) -> None:
    """Say what any process found unreadable, and count it."""
    found = list(dict.fromkeys(entry for entries in gathered(own) for entry in entries))
    for line in _passed_over(found):
        log.say(line)
    stream.note(found)


def _passed_over(unreadable: Iterable[tuple[str, str]]) -> list[str]:
    """What to say of training images that cannot be read."""
    return [f"{printable(name)} cannot be read ({code}): another image takes its place" for name, code in unreadable]


def _log(trainer: Trainer, meter: Meter, log: RunLog | SilentLog) -> None:
    """Write a line about the steps since the last one, if any of them updated something."""
    state = trainer.state
    if not state.losses:
        return
    loss = float(torch.stack(state.losses).mean())
    rate = state.optimizer.param_groups[0]["lr"]  # of the head, where layers differ
    line = {"step": state.step, "loss": loss, "learning_rate": rate, **meter.read()}
    state.losses.clear()
    log.write(line)
    log.show(line, state.best if state.evaluated else None)


def _evaluate(work: _Work, trainer: Trainer, log: RunLog | SilentLog) -> None:
    """Score the validation split and log it, unless that was done before this run stopped."""
    step = trainer.state.step
    if trainer.state.evaluated == step:
        return
    found = {weights: trainer.evaluate(weights, work.splits.val, "val", work.stop) for weights in trainer.weights}
    sample = training_sample(work.splits.train, work.config.run.evaluate_train)
    better = max(found, key=lambda weights: rank(found[weights]))
    seen = trainer.evaluate(better, sample, TRAIN_SAMPLE, work.stop) if len(sample) else None
    evaluation = found[better]
    trainer.note(better, evaluation)
    if seen is not None:
        log.write({"step": step, "evaluation": TRAIN_SAMPLE, **seen.summary()})
    each = {f"{weights}_top1": one.top1 for weights, one in found.items()}
    log.write({"step": step, "evaluation": "val", **evaluation.summary(), "weights": better, **each})
    unread = len(evaluation.unreadable)
    counted = f", {unread} of {evaluation.num_images} images cannot be read and count as wrong" if unread else ""
    by = "".join(f", {weights} weights {one.top1:.2%}" for weights, one in found.items() if len(found) > 1)
    log.say(f"step {step}: validation accuracy {evaluation.top1:.2%}, loss {evaluation.loss:.3f}{by}{counted}")
    if work.watch is not None:
        work.watch(step, evaluation)
