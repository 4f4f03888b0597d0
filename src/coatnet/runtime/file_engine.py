"""An engine that runs a file: how it is copied and pickled. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Self

from coatnet.errors import ModelFileError
from coatnet.runtime.engines import Engine


def files_beside(path: Path) -> list[Path]:
    """The files that a runtime reads when it opens this one; `.data` is there for large networks only."""
    beside = {".xml": path.with_suffix(".bin"), ".onnx": path.with_name(f"{path.name}.data")}.get(path.suffix)
    return [path] if beside is None else [path, beside]


class FileEngine(Engine):
    """An engine of a file, which does not change once it is open: a copy is the engine itself.

    A pickle holds the path and the checksums of the files, not the weights; whoever reads it opens them again.

    Args:
        path: the file.
        options: what else the engine was made with.
    """

    def __init__(self, path: Path, *options: Any) -> None:
        self._path, self._options = path.absolute(), options
        self._opened = _state(self._path)

    def __copy__(self) -> Self:
        """The engine itself."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The engine itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """What to open again.

        Raises:
            ModelFileError: the files are not those any more that were opened.
        """
        if not self._opened or _state(self._path) != self._opened:
            raise ModelFileError(
                f"the classifier cannot be pickled: {self._path} was opened, and is gone or has changed since",
                "load it again",
            )
        return _open_again, (type(self), self._path, self._options, _checksums(self._path))


def _open_again(kind: type[FileEngine], path: Path, options: tuple[Any, ...], checksums: dict[str, str]) -> FileEngine:
    if _checksums(path) != checksums:
        raise ModelFileError(f"{path} is not the file of the pickled classifier: it is missing or has changed")
    return kind(path, *options)


def _state(path: Path) -> list[tuple[int, int, int]]:
    """What tells whether the files are still those that were opened; nothing where the first one is missing."""
    try:
        found = [os.stat(file) for file in files_beside(path) if file == path or file.exists()]
    except OSError:
        return []
    return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in found]


def _checksums(path: Path) -> dict[str, str]:
    checksums = {}
    for file in files_beside(path):
        if file.is_file():
            with file.open("rb") as opened:
                checksums[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return checksums
