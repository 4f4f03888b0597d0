"""The folder of a run: what is where, what may be written, what a resumed run reads back."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from coatnet.data.sources import DataConfig, Splits, open_data
from coatnet.data.splitting import stored_split
from coatnet.errors import ConfigError, ModelFileError
from coatnet.frozen import explain
from coatnet.training.config import TrainConfig
from coatnet.training.disk import room_for

if TYPE_CHECKING:
    from torch import Tensor


STARTING = ".starting"
"""File in a run folder from its making until config.json is there: a kill in between leaves no run and no obstacle."""


class RunFolder:
    """Paths of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.split = path / "split.json"
        self.environment = path / "environment.json"
        self.initial = path / "initial.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.classifier = path / "classifier"
        self.evaluation = path / "evaluation.json"
        self.report = path / "report.html"

    def check_free(self, overwrite: bool) -> None:
        """See that a new run may be written here; nothing is changed.

        Raises:
            ConfigError: something is there; with `overwrite`, something that is not a run.
        """
        if self.path.is_file():
            raise ConfigError(f"{self.path} is a file, not a folder for a run", "choose another folder")
        if is_taken(self.path) and not (overwrite and self.exists()):
            hint = "go on with it by coatnet resume, replace it by overwrite, or choose another folder"
            raise ConfigError(f"{self.path} is not empty", hint if self.exists() else "choose another folder")

    def make_empty(self) -> None:
        """Make the folder, and remove the run that is in it, or what a start that was killed left of one."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / STARTING).touch()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != STARTING:
                entry.unlink()

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config.is_file() and not (self.path / STARTING).exists()

    def write_start(
        self, config: TrainConfig, splits: Splits, environment: dict[str, Any], initial: Mapping[str, Tensor] | None
    ) -> None:
        """Store what a resumed run needs; config.json last, for it makes the folder a run.

        Raises:
            ResourceError: the disk is full.
        """
        with room_for(f"a new run in {self.path}", self.path):
            self._write_start(config, splits, environment, initial)
        (self.path / STARTING).unlink()

    def _write_start(
        self, config: TrainConfig, splits: Splits, environment: dict[str, Any], initial: Mapping[str, Tensor] | None
    ) -> None:
        if initial is not None:
            from coatnet.model.tensors import save_tensors

            save_tensors(initial, self.initial)
        if splits.chosen:
            self.split.write_text(splits.chosen.model_dump_json(indent=1))
        self.environment.write_text(json.dumps(environment, indent=1))
        fresh = self.config.with_suffix(".tmp")
        fresh.write_text(config.model_dump_json(indent=1))
        fresh.replace(self.config)

    def read_config(self) -> TrainConfig:
        """The config of the run.

        Raises:
            ModelFileError: no run, or its config is damaged.
        """
        if not self.exists():
            raise ModelFileError(
                f"{self.path} holds no run: config.json is not there", "give the folder that coatnet train wrote"
            )
        try:
            return TrainConfig.model_validate_json(self.config.read_bytes())
        except ValidationError as error:
            raise ModelFileError(f"{self.config}: {explain(error)}", "restore the file, or train again") from None

    def open_data(self, config: DataConfig) -> Splits:
        """The data, split as this run split it before, if it did."""
        return open_data(config, stored_split(self.path))

    def read_environment(self) -> dict[str, Any]:
        """What `write_start` stored."""
        environment: dict[str, Any] = json.loads(self.environment.read_text())
        return environment


def is_taken(folder: Path) -> bool:
    """Whether something is there, other than what a start that was killed left."""
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / STARTING).exists())


def default_name(data: str) -> str:
    """What folders of this data are called."""
    return Path(os.path.realpath(os.path.expanduser(data))).stem or "run"  # unlike resolve, of a link to itself too


def default_folder(data: str) -> Path:
    """A new folder below runs/, named after the data."""
    base = Path("runs") / default_name(data)
    names = itertools.chain([base], (base.with_name(f"{base.name}-{count}") for count in itertools.count(2)))
    return next(folder for folder in names if not is_taken(folder))
