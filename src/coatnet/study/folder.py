"""The folder of a study: what is where, what may be written, which runs are done. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from coatnet.errors import ConfigError, ModelFileError
from coatnet.frozen import Frozen, explain
from coatnet.study.config import StudyConfig
from coatnet.study.networks import Study, settle
from coatnet.study.plan import PlannedRun
from coatnet.training.claim import held
from coatnet.training.folder import RunFolder, is_taken

GROWING = frozenset({"experiments", "seeds", "contenders", "target"})
"""Fields that only add runs: a study may be started again with more of them."""
TRANSFER = frozenset({"sizes", "transferred", "transfer_epochs", "transfer_rates"})
"""Fields that are free until a study has transfer."""
DIVERGED = "diverged.txt"
"""File in the folder of a run that has no result, with the reason."""


class ArmPace(Frozen):
    """Measured durations of one network, seconds."""

    preparation: float
    """Before the first step."""
    step: float
    """One training step."""
    evaluation: float
    """One evaluation on validation and on training images."""
    final: float
    """The evaluation at the end."""


class StudyFolder:
    """Paths of a study.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = path / "study.json"
        self.pace = path / "pace.json"
        self.report = path / "report"

    def claim(self, config: StudyConfig) -> Study:
        """Make the folder this study's, or see that it is; one that grew is settled anew. Processes do it one by one.

        Raises:
            ConfigError: the folder holds something else, or a study of other settings.
        """
        if not self.study.is_file() and is_taken(self.path):
            raise ConfigError(f"{self.path} is not empty, and holds no study", "choose another --out")
        with held(self.path, wait=True):
            return self._claim(config)

    def _claim(self, config: StudyConfig) -> Study:
        if not self.study.is_file():
            return self._write(settle(config))
        stored = self.read()
        if stored.config == config:
            return stored
        fields = type(config).model_fields
        changed = [name for name in fields if getattr(config, name) != getattr(stored.config, name)]
        free = GROWING if "transfer" in stored.config.experiments else GROWING | TRANSFER
        fixed = [name for name in changed if name not in free]
        if fixed:
            raise ConfigError(
                f"{self.path} holds a study with another {fixed[0]}: {getattr(stored.config, fixed[0])}",
                f"only {', '.join(sorted(GROWING))} may change; or choose another --out",
            )
        return self._write(settle(config))

    def read(self) -> Study:
        """The study.

        Raises:
            ModelFileError: no study, or its file is damaged.
        """
        if not self.study.is_file():
            raise ModelFileError(
                f"{self.path} holds no study: study.json is not there", "give the folder of coatnet study"
            )
        try:
            return Study.model_validate_json(self.study.read_bytes())
        except ValidationError as error:
            raise ModelFileError(
                f"{self.study}: {explain(error)}", "restore the file, or start another study"
            ) from None

    def _write(self, study: Study) -> Study:
        _replace(self.study, study.model_dump_json(indent=1))
        return study

    def run(self, name: str) -> RunFolder:
        """The folder of a run, done or not."""
        return RunFolder(self.path / "runs" / name)

    def lock(self, name: str) -> Path:
        """The file that whoever does a run holds locked."""
        return self.path / "locks" / name.replace("/", "+")

    def diverged(self, run: PlannedRun) -> bool:
        """Whether a run ended without a result."""
        return (self.run(run.name).path / DIVERGED).is_file()

    def is_done(self, run: PlannedRun) -> bool:
        """Whether nothing is left to do: a trial ends with its last evaluation, a result with its report."""
        folder = self.run(run.name)
        if self.diverged(run):
            return True
        return folder.report.is_file() if run.rate is None else self.trial_score(run) is not None

    def trial_score(self, trial: PlannedRun) -> tuple[float, float] | None:
        """Validation accuracy and negative loss at the end of a trial, None before it: higher is better."""
        folder = self.run(trial.name)
        if not folder.exists() or not folder.metrics.is_file():
            return None
        from coatnet.training.log import read_metrics  # imports torch

        steps = folder.read_config().run.steps
        ends = [line for line in read_metrics(folder.metrics) if line.get("evaluation") == "val"]
        return (ends[-1]["top1"], -ends[-1]["loss"]) if ends and ends[-1]["step"] == steps else None

    def read_pace(self) -> dict[str, ArmPace]:
        """What was measured when the study was planned, by network; of some or all of them."""
        try:
            return {name: ArmPace(**values) for name, values in json.loads(self.pace.read_bytes()).items()}
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # none, or damaged: measured anew
            return {}

    def write_pace(self, pace: Mapping[str, ArmPace]) -> None:
        """Keep what was measured."""
        _replace(self.pace, json.dumps({name: one.model_dump() for name, one in pace.items()}, indent=1))


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_suffix(f".{os.getpid()}.tmp")  # several processes may do it at once
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
