"""The classifier folder: its files, read strictly and replaced whole."""

import glob
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, ValidationError

from coatnet.data.preprocess import Preprocess
from coatnet.data.storage import address_of
from coatnet.errors import ConfigError, ModelFileError
from coatnet.frozen import Frozen, explain
from coatnet.model.family import ModelConfig
from coatnet.version import __version__

FORMAT = 1
"""Raised when a folder written by an older coatnet could be misread."""
WEIGHTS = "model.safetensors"
JSON_FILES = ("config.json", "preprocess.json", "labels.json", "fingerprint.json")
CARD = "README.md"
CONVERTED = "converted"
"""The folder of networks in other runtimes' forms, see `conversions.py`; made again when it is missing."""
OWN = (WEIGHTS, *JSON_FILES, CARD, CONVERTED)
"""All that a classifier folder holds."""
Record = TypeVar("Record", bound=Frozen)

UNFINISHED_SECONDS = 24 * 3600
"""An unfinished folder that has not changed for so long was left by a process that was killed."""
ATTEMPTS = 10
"""How often another process may take a folder's place between two system calls of ours, before that is an error."""
MAX_JSON_BYTES = 16_000_000  # the names of ImageNet-21K's classes take under 1 MB


class ConfigRecord(Frozen):
    """config.json."""

    format: int = FORMAT
    coatnet: str = __version__
    """Version that wrote the folder; only told."""
    model: ModelConfig


class LabelsRecord(Frozen):
    """labels.json."""

    labels: tuple[str, ...]
    """Class names in the order of the logits."""


class FingerprintRecord(Frozen):
    """fingerprint.json."""

    sha256: str
    """Of model.safetensors."""
    files: dict[str, str] = Field(default_factory=dict)
    """sha256 of each of the other JSON files: a class name or a mean that changed would show in no logit."""
    input: tuple[float, ...]
    """The fixed image, resized and normalised like any other: 3 channels at 8 x 8 places."""
    logits: tuple[float, ...]
    """What the network says of it, computed in float32."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a classifier folder says, less its weights."""

    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    fingerprint: FingerprintRecord

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Parse the four JSON files.

        Raises:
            ModelFileError: a file or key is missing, unknown, damaged, too large or of a newer format.
        """
        return cls(
            config=parse(folder / "config.json", ConfigRecord).model,
            preprocess=parse(folder / "preprocess.json", Preprocess),
            labels=parse(folder / "labels.json", LabelsRecord).labels,
            fingerprint=parse(folder / "fingerprint.json", FingerprintRecord),
        )

    def prove(self, folder: Path) -> None:
        """Compare the checksums of the files with the stored ones.

        Raises:
            ModelFileError: one differs.
        """
        if sha256(folder / WEIGHTS) != self.fingerprint.sha256:
            raise ModelFileError(
                f"{folder / WEIGHTS} is damaged or was exchanged: its sha256 is not the stored one.",
                "Copy the folder again.",
            )
        for name in JSON_FILES[:-1]:
            if name not in self.fingerprint.files:
                raise ModelFileError(f"{folder / JSON_FILES[-1]}: files: no sha256 of {name}.", "Save it again.")
            if sha256(folder / name) != self.fingerprint.files.get(name):
                raise ModelFileError(
                    f"{folder / name} is not what was saved with these weights: its sha256 is not the stored one.",
                    "Take all files of the folder from one save; to change one, load, change and save the classifier.",
                )

    def write(self, folder: Path) -> None:
        """Write the four JSON files; the fingerprint last, with the checksums of the others."""
        records = (ConfigRecord(model=self.config), self.preprocess, LabelsRecord(labels=self.labels))
        for name, record in zip(JSON_FILES[:-1], records, strict=True):
            write(folder / name, record)
        files = {name: sha256(folder / name) for name in JSON_FILES[:-1]}
        write(folder / JSON_FILES[-1], self.fingerprint.replace(files=files))


def find_folder(path: Path) -> Path:
    """The classifier folder that `path` is, or that the run folder `path` holds.

    Raises:
        ModelFileError: neither; the hint lists what was found.
    """
    for folder in (path / "classifier", path):
        if all((folder / name).is_file() for name in (WEIGHTS, *JSON_FILES)):
            return folder
    if address := address_of(path):
        raise ModelFileError(f"{address} is an address; only folders are read.", "Download it, and give the folder.")
    if not path.is_dir():
        raise ModelFileError(
            f"{path} is not a folder." if path.exists() else f"{path} does not exist.",
            "Give a run folder or a classifier folder.",
        )
    if (path / "environment.json").is_file() and not (path / "classifier").exists():  # what every run folder has
        raise ModelFileError(
            f"{path} is a run that has not ended, and has no classifier yet.", f"Go on with it: coatnet resume {path}"
        )
    folder = path / "classifier" if (path / "classifier").is_dir() else path
    found = sorted(entry.name for entry in folder.iterdir())
    missing = [name for name in (WEIGHTS, *JSON_FILES) if name not in found]
    raise ModelFileError(
        f"{folder} is not a classifier folder: {', '.join(missing)} missing.",
        f"It holds {', '.join(found[:10]) or 'nothing'}{', ...' if len(found) > 10 else ''}.",
    )


def replace_folder(folder: Path, write: Callable[[Path], None], own: Collection[str] = OWN) -> None:
    """Let `write` fill a new folder beside `folder`, then move it to its place. An error leaves what was there. Where
    several threads or processes do so at once, each folder is whole and the last one stays.

    Args:
        folder: its place.
        write: fills the folder that it is given.
        own: names of what may be replaced; default: those of a classifier folder.

    Raises:
        ConfigError: `folder` holds anything else.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file.", "Choose a new folder.")
    foreign = sorted(_names_in(folder) - set(own))
    if foreign:
        listed = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ConfigError(f"{folder} is not only a classifier folder: it holds {listed}.", "Choose a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(folder) as fresh:
        write(fresh)
        for left in reversed(range(ATTEMPTS)):
            if _exchanged(fresh, folder, last=not left):
                return


def _names_in(folder: Path) -> set[str]:
    """What a folder holds; nothing where it is not there, or goes while one looks."""
    try:
        return {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _exchanged(fresh: Path, folder: Path, last: bool) -> bool:
    """Whether `fresh` took the place of `folder`; False if another process was faster, unless it is the last time."""
    with unfinished_folder(folder) as stale:
        old = stale / "old"
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if folder.exists() and not last:
                return False
            if old.exists():
                old.rename(folder)
            raise
    return True


@contextmanager
def unfinished_folder(place: Path) -> Iterator[Path]:
    """A new, empty folder beside `place`, for what shall get its name. At the end it is removed, if it is still there.

    Nobody else has it: its name is drawn. What a killed process left beside `place` is removed as well.
    """
    for left in place.parent.glob(f".{glob.escape(place.name)}.*.unfinished"):
        with suppress(OSError):  # another process removes it
            if time.time() - left.stat().st_mtime > UNFINISHED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(8)}.unfinished")
    fresh.mkdir()
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, record: Frozen) -> None:
    """A record as a JSON file."""
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def parse(path: Path, kind: type[Record]) -> Record:
    """A record from a JSON file, strictly.

    Raises:
        ModelFileError: damaged, too large, or of a newer format.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelFileError(f"{path} has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read.")
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not JSON: {error}.", "Copy the folder again.") from error
    # Looked at first: a newer format may hold keys that this version does not know.
    written = content.get("format", FORMAT) if isinstance(content, dict) else FORMAT
    if written != FORMAT:
        raise ModelFileError(
            f"{path}: format {written!r} is not {FORMAT}, the one that coatnet {__version__} reads.",
            "Use the coatnet that wrote it, or a newer one.",
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ModelFileError(f"{path}: {explain(error)}.", "Take the file as coatnet wrote it.") from error
