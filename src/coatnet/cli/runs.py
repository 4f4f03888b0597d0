"""Run folders as the verbs use them: where a new one goes, and what an old one tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coatnet.classifier.folder import find_folder
from coatnet.data.sources import DataConfig, SplitRecord, stored_path
from coatnet.data.splitting import stored_split
from coatnet.errors import ConfigError
from coatnet.model.family import member
from coatnet.training.config import lay_over
from coatnet.training.folder import RunFolder, default_folder, is_taken


def choose_folder(data: str, out: Path | None, resume: bool, overwrite: bool) -> Path:
    """The folder of a run: `out`, or a new one below runs/ that is named after the data.

    Raises:
        ConfigError: `out` cannot be used.
    """
    if out is None:
        if resume or overwrite:
            raise ConfigError(f"--{'resume' if resume else 'overwrite'} needs --out, the folder of the run")
        return default_folder(data)
    out = out.expanduser()
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "give one of them")
    blocked = next((path for path in (out, *out.absolute().parents) if path.exists() and not path.is_dir()), None)
    if blocked:
        raise ConfigError(f"--out {out}: {blocked} is a file", "choose a new folder")
    if is_taken(out) and not ((resume or overwrite) and RunFolder(out).exists()):
        hint = "choose another --out" + (", or add --resume or --overwrite" if RunFolder(out).exists() else "")
        raise ConfigError(f"--out {out} is not empty", hint)
    return out


def check_unchanged(
    folder: Path, data: str, flags: dict[str, dict[str, Any]], model: str | None = None, image_size: int | None = None
) -> None:
    """A run goes on as it began: flags may repeat its settings, not change them. A length in epochs or time was
    turned into steps then, and is not compared.

    Raises:
        ConfigError: a flag says otherwise.
    """
    stored = RunFolder(folder).read_config()
    run = {name: value for name, value in flags["run"].items() if name not in ("epochs", "time")}
    asked = lay_over(stored, **{**flags, "run": run, "data": {**flags["data"], "path": stored_path(data)}})
    hint = "a run goes on as it began: leave it out, or start a new run"
    for part in flags:
        before, after = getattr(stored, part), getattr(asked, part)
        for name in type(before).model_fields:
            if getattr(before, name) != getattr(after, name):
                was = f"{getattr(before, name)!r} in {folder}, got {getattr(after, name)!r}"
                raise ConfigError(f"--{name.replace('_', '-')}: {was}", hint)
    if image_size not in (None, stored.model.image_size):
        raise ConfigError(f"--image-size: {stored.model.image_size} in {folder}, got {image_size}", hint)
    if model is not None and member(model).stages != stored.model.stages:
        raise ConfigError(f"--model: {folder} trains another than {model}", hint)


def run_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose classifier folder it is; None if it is neither."""
    for folder, classifier in ((path, path / "classifier"), (path.absolute().parent, path)):
        if classifier.name == "classifier" and classifier.is_dir() and RunFolder(folder).exists():
            return folder
    return None


def data_of(path: Path, data: str | None) -> DataConfig:
    """What to score: `data`, read as the run read its own, or the run's own.

    Raises:
        ConfigError: neither is there.
    """
    run = run_of(path)
    if run is not None:
        stored = RunFolder(run).read_config().data
        return stored if data is None else stored.replace(path=data)
    if data is None:
        find_folder(path)  # what is no classifier at all is told first
        raise ConfigError("DATA is missing", f"{path} is not a run folder, which would know its data")
    return DataConfig(path=data)


def split_of(path: Path) -> SplitRecord | None:
    """The split that the run chose, if there is a run."""
    run = run_of(path)
    return None if run is None else stored_split(run)
