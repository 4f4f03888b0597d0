"""Source: labelled images that have not been decoded yet, wherever their bytes lie. No torch."""

import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coatnet.data.images import ImageError, ImageLimits, check_bytes, read_file
from coatnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_DEFAULT_LIMITS = ImageLimits()


class Source(ABC):
    """Labelled images, in a fixed order that does not depend on the file system.

    Attributes:
        class_names: (classes,) the names of the classes; a label is an index into them.
        labels: (samples,) int64.
        names: (samples,) a name per sample, unique and the same whenever the data is opened; printable.
    """

    def __init__(self, class_names: Sequence[str], labels: NDArray[np.int64], names: Sequence[str]) -> None:
        assert len(labels) == len(names)
        self.class_names = tuple(class_names)
        self.labels = labels
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """The bytes of the image file of one sample; `ImageError` if there are none or too many."""

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "Source":
        """The samples at `indices`, in that order, with the same class names."""
        chosen = np.asarray(indices, dtype=np.int64)
        return _View(self, chosen, self.class_names, self.labels[chosen])

    def relabelled(self, class_names: Sequence[str]) -> "Source":
        """The same samples with labels that are indices into `class_names`, joined by name.

        Raises:
            DataError: if samples have a class that is not in `class_names`; it names the unknown classes.
        """
        position = {plain_text(name): index for index, name in enumerate(class_names)}
        used = [self.class_names[label] for label in np.unique(self.labels)]
        unknown = [name for name in used if plain_text(name) not in position]
        if unknown:
            raise DataError(
                f"{some(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the {len(class_names)} known "
                f"classes: {some(class_names)}.",
                hint="Rename or remove these classes, or train on data that has them.",
            )
        table = np.array([position.get(plain_text(name), -1) for name in self.class_names], dtype=np.int64)
        return _View(self, np.arange(len(self)), tuple(class_names), table[self.labels])


class _View(Source):
    def __init__(
        self, parent: Source, indices: NDArray[np.int64], class_names: tuple[str, ...], labels: NDArray[np.int64]
    ) -> None:
        if isinstance(parent, _View):
            indices, parent = parent.indices[indices], parent.parent
        super().__init__(class_names, labels, [parent.names[index] for index in indices])
        self.parent: Source = parent
        self.indices: NDArray[np.int64] = indices

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        return self.parent.read(int(self.indices[index]), limits)


class FileSource(Source):
    """Image files on disk."""

    def __init__(
        self, class_names: Sequence[str], labels: NDArray[np.int64], names: Sequence[str], paths: Sequence[Path]
    ) -> None:
        super().__init__(class_names, labels, names)
        self.paths = paths

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """As `Source.read`."""
        return read_file(self.paths[index], limits)


class BytesSource(Source):
    """Image files held in memory as Python bytes."""

    def __init__(
        self, class_names: Sequence[str], labels: NDArray[np.int64], names: Sequence[str], files: Sequence[bytes]
    ) -> None:
        super().__init__(class_names, labels, names)
        self.files = files

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """As `Source.read`."""
        return self.files[index]


class ArrowColumn:
    """Image files in a column of a table: bytes, or a struct of bytes and path as Hugging Face writes it.

    Args:
        chunks: the column's arrays, left in Arrow's memory.
        folder: what a path in the struct is relative to.
    """

    def __init__(self, chunks: "Sequence[pa.Array]", folder: Path) -> None:
        self.chunks = [chunk for chunk in chunks if len(chunk)]
        self.ends = list(accumulate(len(chunk) for chunk in self.chunks))
        self.folder = folder

    def read(self, row: int, limits: ImageLimits) -> bytes:
        """The bytes of one row."""
        chunk = bisect_right(self.ends, row)
        cell: Any = self.chunks[chunk][row - (self.ends[chunk] - len(self.chunks[chunk]))]
        if hasattr(cell, "keys") and cell.is_valid:
            path = cell["path"].as_py() if "path" in cell else None
            cell = cell.get("bytes")
            if (cell is None or not cell.is_valid) and path is not None:
                return read_file(self.folder / path, limits)
        if cell is None or not cell.is_valid:
            raise ImageError("empty", "null in the table")
        cell = cell.value if hasattr(cell, "dictionary") else cell
        buffer = cell.as_buffer()
        check_bytes(buffer.size, limits)  # before it is copied
        return bytes(buffer)


class ArrowSource(Source):
    """Image files in one or more tables, one after the other."""

    def __init__(
        self,
        class_names: Sequence[str],
        labels: NDArray[np.int64],
        names: Sequence[str],
        columns: Sequence[ArrowColumn],
    ) -> None:
        super().__init__(class_names, labels, names)
        self.columns = columns
        self.ends = list(accumulate(column.ends[-1] if column.ends else 0 for column in columns))

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """As `Source.read`."""
        table = bisect_right(self.ends, index)
        return self.columns[table].read(index - (self.ends[table - 1] if table else 0), limits)


class JoinedSource(Source):
    """Sources with the same class names, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        names = [name for source in sources for name in source.names]
        super().__init__(sources[0].class_names, np.concatenate([source.labels for source in sources]), names)
        self.sources = sources
        self.ends = list(accumulate(len(source) for source in sources))

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """As `Source.read`."""
        which = bisect_right(self.ends, index)
        return self.sources[which].read(index - (self.ends[which - 1] if which else 0), limits)


def printable(name: str | bytes) -> str:
    """A file name as text that any terminal and any JSON file can hold; bytes that are no text become escapes."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def plain_text(name: str) -> str:
    """A name in the composed form of Unicode (NFC): macOS and some archives write letters with accents as two."""
    return unicodedata.normalize("NFC", name)


def some(names: Sequence[str], num_shown: int = 3) -> str:
    """The first few names for an error message, and how many more there are."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:num_shown])
    return shown if len(names) <= num_shown else f"{shown} and {len(names) - num_shown} more"
