"""What the runs of a study came to, read from their folders. Imports no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coatnet.errors import ConfigError
from coatnet.study.folder import ArmPace, StudyFolder
from coatnet.study.networks import Study
from coatnet.study.plan import PlannedRun, plan, run_config
from coatnet.training.log import TRAIN_SAMPLE, read_metrics


class Moment(NamedTuple):
    """One evaluation of a run. Losses and fractions are those of eval mode, without augmentation."""

    step: int
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float


@dataclass(frozen=True)
class Result:
    """A run that is done, and no trial."""

    run: PlannedRun
    rate: float
    """Peak learning rate."""
    num_images: int
    """Training images."""
    moments: tuple[Moment, ...]
    top1: float
    """Final accuracy, a fraction."""
    split: str
    """What it was taken on: test, else val."""
    seconds: float
    """Of its training steps, as they went."""
    images_per_second: float
    """Median of its training steps."""

    @property
    def last(self) -> Moment:
        """The evaluation at its end."""
        return self.moments[-1]

    @property
    def gap(self) -> float:
        """Accuracy on the training sample less accuracy on validation, at the end."""
        return self.last.train_top1 - self.last.val_top1


@dataclass(frozen=True)
class Gathered:
    """A study and what it came to so far."""

    study: Study
    results: tuple[Result, ...]
    pace: Mapping[str, ArmPace]
    num_runs: int
    """Of the plan."""
    diverged: tuple[str, ...]
    """Names of runs without a result."""


def gather(folder: StudyFolder) -> Gathered:
    """Read a study, done or not.

    Raises:
        ModelFileError: no study is there.
        ConfigError: none of its runs is done.
    """
    study = folder.read()
    runs, results = plan(study), read_results(folder, study)
    if not results:
        raise ConfigError(f"{folder.path}: none of the {len(runs)} runs is done", "start the study first")
    diverged = tuple(run.name for run in runs if folder.diverged(run))
    return Gathered(study, results, folder.read_pace(), len(runs), diverged)


def read_results(folder: StudyFolder, study: Study) -> tuple[Result, ...]:
    """All runs with a result: network by network, those of each in the order of the plan."""
    done = [run for run in plan(study) if run.rate is None and folder.is_done(run) and not folder.diverged(run)]
    arms = [arm.name for arm in study.arms]
    return tuple(_read(folder, study, run) for run in sorted(done, key=lambda run: arms.index(run.arm)))


def _read(folder: StudyFolder, study: Study, run: PlannedRun) -> Result:
    place = folder.run(run.name)
    config, lines = place.read_config(), read_metrics(place.metrics)
    final = place.read_evaluation()
    batch = config.run.batch_size
    steps = [line for line in lines if "evaluation" not in line]
    ends = [0, *(line["step"] for line in steps)]
    seconds = sum(
        (line["step"] - before) * batch / line["images_per_second"] for before, line in zip(ends, steps, strict=False)
    )
    moments = {line["step"]: line for line in lines if line.get("evaluation") == TRAIN_SAMPLE}
    return Result(
        run=run,
        rate=config.optimizer.learning_rate,
        num_images=_num_images(study, run),
        moments=tuple(
            Moment(
                line["step"], moments[line["step"]]["loss"], moments[line["step"]]["top1"], line["loss"], line["top1"]
            )
            for line in lines
            if line.get("evaluation") == "val"
        ),
        top1=final["top1"],
        split=final["split"],
        seconds=seconds,
        images_per_second=float(np.median([line["images_per_second"] for line in steps])),
    )


def _num_images(study: Study, run: PlannedRun) -> int:
    images = study.num_target_images if run.experiment == "transfer" else study.num_images
    return round(images * run_config(study, run, 1.0).data.train_fraction)


def accuracy_at_loss(moments: Sequence[Moment], loss: float) -> float | None:
    """Validation accuracy when the training loss first came down to `loss`, between two evaluations on a line in the
    logarithm of the loss; None if it never did."""
    for before, after in zip((None, *moments), moments, strict=False):
        if after.train_loss > loss:
            continue
        if before is None:
            return after.val_top1
        share = np.log(before.train_loss / loss) / np.log(before.train_loss / after.train_loss)
        return float(before.val_top1 + share * (after.val_top1 - before.val_top1))
    return None


def steps_to(moments: Sequence[Moment], *, train_loss: float = np.inf, val_top1: float = 0.0) -> float | None:
    """Steps until a training loss and a validation accuracy are both reached, at an evaluation; None if never."""
    return next(
        (float(moment.step) for moment in moments if moment.train_loss <= train_loss and moment.val_top1 >= val_top1),
        None,
    )


RESULT_COLUMNS = (
    "run", "experiment", "arm", "setting", "seed", "learning_rate", "training_images", "steps", "train_loss",
    "train_top1", "val_loss", "val_top1", "gap", "final_top1", "final_split", "seconds", "images_per_second",
    "parameters", "multiply_adds",
)  # fmt: skip


def result_rows(study: Study, results: Iterable[Result]) -> list[dict[str, Any]]:
    """A row for each run: its settings, and what it came to at its end; rates are fractions."""
    rows = []
    for one in results:
        run, last, arm = one.run, one.last, study.arm(one.run.arm)
        values = (
            run.name, run.experiment, run.arm, run.setting, run.seed, one.rate, one.num_images, last.step,
            last.train_loss, last.train_top1, last.val_loss, last.val_top1, one.gap, one.top1, one.split,
            round(one.seconds, 2),
            round(one.images_per_second, 1), arm.parameters, arm.multiply_adds,
        )  # fmt: skip
        rows.append(dict(zip(RESULT_COLUMNS, values, strict=True)))
    return rows


def moment_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """A row for each evaluation of each run."""
    return [{"run": one.run.name, **moment._asdict()} for one in results for moment in one.moments]


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with their keys as the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        if rows:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
