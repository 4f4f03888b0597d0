"""Runs side by side: what they were told, what they reached, what they cost."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coatnet.errors import ConfigError
from coatnet.pages.page import Picture, Section, Table, write_page
from coatnet.pages.plots import Series, curves
from coatnet.training.config import TrainConfig
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics

UNTOLD = ("format", "class_names", "choices", "data.path")
"""Settings that are no choice of training: told otherwise, or not at all."""


@dataclass(frozen=True)
class RunSummary:
    """One run in numbers."""

    name: str
    """Its folder as it was given."""
    config: TrainConfig
    steps: int
    """Done so far."""
    images_per_second: float | None
    """Median of the lines of metrics.jsonl; None before the first."""
    best_val: float | None
    """Best validation accuracy so far, a fraction."""
    top1: float | None
    """Final accuracy, a fraction; None if the run has not ended."""
    split: str
    """What the final accuracy was taken on, or "" ."""
    lines: tuple[dict[str, Any], ...]
    """metrics.jsonl."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; accuracies are fractions."""
        names = ("name", "steps", "images_per_second", "best_val", "top1", "split")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Comparison:
    """Runs, and the settings in which they differ."""

    runs: tuple[RunSummary, ...]
    differences: dict[str, tuple[str, ...]]
    """For each setting that is not the same everywhere, as "optimizer.learning_rate", its value in each run."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `runs`, and `differences` by setting, in the order of the runs."""
        differences = {name: list(values) for name, values in self.differences.items()}
        return {"runs": [run.as_dict() for run in self.runs], "differences": differences}


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs, finished or not.

    Args:
        folders: two run folders or more.

    Raises:
        ConfigError: fewer than two.
        ModelFileError: one holds no run.
    """
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} run was given, at least two can be compared", "name another run folder")
    runs = tuple(_summary(folder) for folder in folders)
    settings = [_settings(run.config.model_dump(mode="json")) for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    values = {name: tuple(one.get(name, "") for one in settings) for name in names if name not in UNTOLD}
    return Comparison(runs, {name: told for name, told in values.items() if len(set(told)) > 1})


def _summary(folder: Path) -> RunSummary:
    run = RunFolder(folder)
    config, lines = run.read_config(), read_metrics(run.metrics)
    speeds = sorted(line["images_per_second"] for line in lines if "images_per_second" in line)
    accuracies = [line["top1"] for line in lines if line.get("evaluation") == "val"]
    final: dict[str, Any] = {}
    if run.evaluation.is_file():
        final = run.read_evaluation()
    return RunSummary(
        name=str(folder),
        config=config,
        steps=max((line["step"] for line in lines), default=0),
        images_per_second=speeds[len(speeds) // 2] if speeds else None,
        best_val=max(accuracies, default=None),
        top1=final.get("top1"),
        split=final.get("split", ""),
        lines=tuple(lines),
    )


def _settings(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of dotted names, values as text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def write_comparison(comparison: Comparison, path: Path) -> None:
    """One HTML page: the table, the settings that differ, loss and validation accuracy of all runs in one picture."""
    columns = ("run", "steps", "images/s", "best validation", "final accuracy")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "curves.png"
        losses = [_series(run, "loss", evaluated=False) for run in comparison.runs]
        accuracies = [_series(run, "top1", evaluated=True) for run in comparison.runs]
        curves(picture, losses, [one for one in accuracies if one.x])
        sections = [
            Section(title="Results", tables=[Table(columns=columns, rows=result_rows(comparison))]),
            Section(title="Curves", pictures=[Picture(path=picture, alt="training loss and validation accuracy")]),
            Section(
                title="Settings that differ",
                tables=[
                    Table(
                        columns=("setting", *(run.name for run in comparison.runs)),
                        rows=[(name, *values) for name, values in comparison.differences.items()],
                        num_names=1 + len(comparison.runs),
                    )
                ],
            ),
        ]
        write_page(path, "Runs compared", sections)


def result_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """For each run: name, steps, images per second, best validation accuracy, final accuracy; all text."""
    return [
        (
            run.name,
            f"{run.steps:,} of {run.config.run.steps:,}" if run.config.run.steps else f"{run.steps:,}",
            f"{run.images_per_second:,.0f}" if run.images_per_second else "",
            f"{run.best_val:.2%}" if run.best_val is not None else "",
            f"{run.top1:.2%} ({run.split})" if run.top1 is not None else "not ended",
        )
        for run in comparison.runs
    ]


def _series(run: RunSummary, key: str, *, evaluated: bool) -> Series:
    wanted = "val" if evaluated else None
    lines = [line for line in run.lines if line.get("evaluation") == wanted and key in line]
    return Series(name=run.name, x=[line["step"] for line in lines], y=[line[key] for line in lines])
