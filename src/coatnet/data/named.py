"""Data sets that torchvision knows by name, downloaded once. torch is imported when one is used."""

import contextlib
import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.data.folders import Found
from coatnet.data.images import ImageLimits
from coatnet.data.samples import FileSource, Source
from coatnet.data.user_cache import cache_folder
from coatnet.errors import DataError, MissingPartError

_DEFAULT_LIMITS = ImageLimits()
# What a user waits without a sign of life before it is told that there is no network.
_TIMEOUT_SECONDS = 10.0


class _NamedSet(NamedTuple):
    """torchvision's class, its argument for each of our splits, and where its objects keep images or their files."""

    class_name: str
    parts: dict[str, dict[str, Any]]
    images: str
    labels: str


_BY_TRAIN: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_BY_THREE: dict[str, dict[str, Any]] = {**_BY_SPLIT, "val": {"split": "val"}}

_SETS = {
    "cifar10": _NamedSet("CIFAR10", _BY_TRAIN, "data", "targets"),
    "cifar100": _NamedSet("CIFAR100", _BY_TRAIN, "data", "targets"),
    "mnist": _NamedSet("MNIST", _BY_TRAIN, "data", "targets"),
    "fashion_mnist": _NamedSet("FashionMNIST", _BY_TRAIN, "data", "targets"),
    "flowers102": _NamedSet("Flowers102", _BY_THREE, "_image_files", "_labels"),
    "food101": _NamedSet("Food101", _BY_SPLIT, "_image_files", "_labels"),
    "dtd": _NamedSet("DTD", _BY_THREE, "_image_files", "_labels"),
    "oxford_pets": _NamedSet(
        "OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}, "_images", "_labels"
    ),
}
NAMED_SETS = tuple(_SETS)
"""The names; a file or folder of the same name in the current folder goes first."""


class ArraySource(Source):
    """Images that are rows of one array; they become PNG files when they are read, so that they pass the gate."""

    def __init__(
        self, class_names: list[str], labels: NDArray[np.int64], names: list[str], images: NDArray[np.uint8]
    ) -> None:
        super().__init__(class_names, labels, names)
        self.images = images

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """As `Source.read`."""
        buffer = io.BytesIO()
        Image.fromarray(self.images[index]).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def read_named(name: str) -> Found:
    """A data set by one of `NAMED_SETS`, from the cache folder; it is downloaded if it is not there.

    Raises:
        MissingPartError: it is not there, and it cannot be downloaded.
        DataError: it is there, and it is damaged.
    """
    chosen = _SETS[name]
    folder = cache_folder("datasets")
    opened = {part: _opened(name, chosen, arguments, folder) for part, arguments in chosen.parts.items()}
    class_names = _class_names(opened["train"], chosen)
    return Found({part: _source(name, part, chosen, data, class_names) for part, data in opened.items()})


def _opened(name: str, chosen: _NamedSet, arguments: dict[str, Any], folder: Path) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, chosen.class_name)
    with contextlib.suppress(RuntimeError):  # not there, or not whole
        return kind(root=folder, **arguments)
    try:
        with _impatient(), contextlib.redirect_stdout(sys.stderr):  # its progress is no answer
            return kind(root=folder, download=True, **arguments)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingPartError(
            f"The data set {name} is not in {folder} and cannot be downloaded: {reason}.",
            hint="Connect to the network once, or put it there as torchvision lays it out.",
        ) from error


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _class_names(train: Any, chosen: _NamedSet) -> list[str]:
    if hasattr(train, "classes"):
        return [str(name) for name in train.classes]
    return [str(label) for label in range(int(np.max(getattr(train, chosen.labels))) + 1)]


def _source(name: str, part: str, chosen: _NamedSet, data: Any, class_names: list[str]) -> Source:
    labels = np.asarray(getattr(data, chosen.labels), dtype=np.int64)
    images = getattr(data, chosen.images)
    if not len(labels) or labels.min() < 0 or labels.max() >= len(class_names):
        raise DataError(f"The labels of {name} are not 0 to {len(class_names) - 1}.", hint="Remove it from the cache.")
    names = [f"{name}/{part}/{index:06d}" for index in range(len(labels))]
    if chosen.images == "data":
        return ArraySource(class_names, labels, names, np.asarray(images))
    return FileSource(class_names, labels, names, [Path(path) for path in images])
