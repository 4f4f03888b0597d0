"""The folder of a run: what is where, what may be written, what a resumed run reads back."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from coatnet.data.sources import Splits, open_data
from coatnet.data.splitting import stored_split
from coatnet.errors import ConfigError, DataError, ModelFileError
from coatnet.frozen import explain
from coatnet.training.changes import DataRecord, changes
from coatnet.training.claim import HOLDER, LOCK, check_unheld, held, is_empty
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
        self.data = path / "data.json"
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
            elif entry.name not in (STARTING, LOCK, HOLDER):
                entry.unlink()

    def forget(self) -> None:
        """Remove a run of which no step was saved: nothing is lost, and the same command may be given again."""
        if not self.checkpoints.exists():
            self.make_empty()
            (self.path / STARTING).unlink()

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
            if initial is not None:
                from coatnet.model.tensors import save_tensors

                save_tensors(initial, self.initial)
            if splits.chosen:
                self.split.write_text(splits.chosen.model_dump_json(indent=1), encoding="utf-8")
            self.data.write_text(DataRecord.of(splits).model_dump_json(indent=1), encoding="utf-8")
            self.write_environment(environment)
            self.write_config(config)
        (self.path / STARTING).unlink()

    def write_config(self, config: TrainConfig) -> None:
        """Store the config, whole or not at all."""
        fresh = self.config.with_suffix(".tmp")
        fresh.write_text(config.model_dump_json(indent=1), encoding="utf-8")
        fresh.replace(self.config)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Store versions, device and command."""
        self.environment.write_text(json.dumps(environment, indent=1), encoding="utf-8")

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

    def open_data(self, config: TrainConfig) -> Splits:
        """The data, split as this run split it before, if it did. Its notes say what changed since the run began.

        Raises:
            DataError: the data is gone, has other classes, or lacks images of the run's own split.
        """
        try:
            splits = open_data(config.data, stored_split(self.path), config.class_names)
        except DataError as error:
            moved = f"if the data moved: coatnet resume {self.path} --data DATA"
            raise DataError(error.message, f"{error.hint.rstrip('. ')}; {moved}" if error.hint else moved) from None
        return replace(splits, notes=(*splits.notes, *changes(self.data, splits)))

    def mend(self, config: TrainConfig, environment: Mapping[str, Any]) -> tuple[str, ...]:
        """Before a run goes on: store its config if its data moved, and the environment anew if that was damaged.

        Returns:
            What to say of it.
        """
        if config != self.read_config():
            self.write_config(config)
        if self.read_environment():
            return ()
        self.write_environment(environment)
        return (f"{self.environment} was damaged: it is written anew, for this machine and without the command",)

    def read_evaluation(self) -> dict[str, Any]:
        """The final scores: `top1`, a fraction, `split`, and more.

        Raises:
            ModelFileError: the file is missing or damaged.
        """
        try:
            found = json.loads(self.evaluation.read_bytes())
            if isinstance(found["top1"], int | float) and isinstance(found["split"], str):
                return dict(found)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass
        raise ModelFileError(f"{self.evaluation} is missing or damaged", f"coatnet resume {self.path} writes it anew")

    def read_environment(self) -> dict[str, Any]:
        """What `write_start` stored; nothing if the file is damaged, for no step depends on it."""
        try:
            environment = json.loads(self.environment.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return environment if isinstance(environment, dict) else {}


def is_taken(folder: Path) -> bool:
    """Whether something is there, other than what a start that was killed left."""
    return folder.is_file() or (folder.is_dir() and not is_empty(folder) and not (folder / STARTING).exists())


def default_name(data: str) -> str:
    """What folders of this data are called."""
    return Path(os.path.realpath(os.path.expanduser(data))).stem or "run"  # unlike resolve, of a link to itself too


def default_folder(data: str) -> Path:
    """A new folder below runs/, named after the data."""
    return next(folder for folder in _default_folders(data) if not is_taken(folder))


@contextmanager
def claimed(folder: Path | None, data: str, overwrite: bool) -> Iterator[RunFolder]:
    """Hold the folder of a new run, before anything is read for it; nothing in it is changed.

    Args:
        folder: None for the first below runs/ that is free, named after the data.
        data: path of the data.
        overwrite: a run that ended may be there, to be replaced.

    Raises:
        ConfigError: the folder is not free.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = next(one for one in _default_folders(data) if _is_held_if_free(one, stack))
        else:
            check_unheld(folder)
            RunFolder(folder).check_free(overwrite)  # before it is held: nothing is written into what is not ours
            stack.enter_context(held(folder))
        RunFolder(folder).check_free(overwrite)
        yield RunFolder(folder)


def _is_held_if_free(folder: Path, stack: ExitStack) -> bool:
    """Hold a folder until the stack is left, if it is free."""
    if is_taken(folder):
        return False
    with ExitStack() as own:
        try:
            own.enter_context(held(folder))
        except ConfigError:  # another process was quicker
            return False
        if is_taken(folder):
            return False
        stack.push(own.pop_all())
    return True


def _default_folders(data: str) -> Iterator[Path]:
    base = Path("runs") / default_name(data)
    yield base
    yield from (base.with_name(f"{base.name}-{count}") for count in itertools.count(2))
