"""Which image files lie in the class folders of a folder; remembered, so that a million are listed once. No torch."""

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.data.samples import printable
from coatnet.data.user_cache import cache_folder, remember
from coatnet.errors import DataError

# What counts as an image in a class folder; a wrong suffix on a real image is no hindrance, the bytes decide. HEIC
# cannot be opened and counts too: a phone's photographs would else be left out without a word.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif"),
)
# Fewer files are listed in a tenth of a second (benchmarks/shards.md) and need no memory.
REMEMBERED_FROM = 10_000
# A folder that changed so shortly before it was listed may change again without a newer time: FAT counts in 2 s.
SETTLED_SECONDS = 2.0
# Changes when the stored form does.
_LAYOUT = "1"

# By path below the listed folder, what changes when a file in a folder is added, removed or renamed.
_Stamps = dict[str, tuple[int, int, int, int]]


def list_classes(folder: Path) -> dict[str, list[str]]:
    """The image files of every class folder, in it and in the folders in it.

    The list is remembered in the user's cache folder, with the times and numbers of all the folders it came from. If
    one of them differs, everything is listed anew.

    Returns:
        By name of the class folder, sorted, also of one without images: the paths of its images below `folder`, sorted,
        with `/` between their parts.

    Raises:
        DataError: a folder cannot be listed.
    """
    memory = _memory_of(folder)
    known = _recall(memory, folder)
    if known is not None:
        return known
    started = time.time_ns()
    stamps: _Stamps = {"": _stamp(folder)}
    files: dict[str, list[str]] = {}
    for name in subfolders(folder):
        files[name] = sorted(_images_below(folder, name, set(), stamps), key=lambda path: path.split("/"))
    newest = max(max(changed) for *changed, _, _ in stamps.values())
    settled = newest < started - SETTLED_SECONDS * 1e9
    if settled and sum(map(len, files.values())) >= REMEMBERED_FROM:
        remember(memory, _as_bytes(stamps, files))
    return files


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    with _opened(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _images_below(root: Path, below: str, seen: set[tuple[int, int]], stamps: _Stamps) -> Iterator[str]:
    """Image files of a folder and the folders in it; each real folder once, so links in a loop end."""
    stamp = _stamp(root / below)
    if stamp[2:] in seen:
        return
    seen.add(stamp[2:])
    stamps[below] = stamp  # taken before the folder is listed: a change in between is seen the next time
    with _opened(root / below) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    for name, is_folder in found:
        if is_folder:
            yield from _images_below(root, f"{below}/{name}", seen, stamps)
        elif name.lower().endswith(IMAGE_SUFFIXES):
            yield f"{below}/{name}"


def _stamp(folder: Path) -> tuple[int, int, int, int]:
    """Times of change, of which programs that copy folders set the first but cannot set the second; device, inode."""
    status = folder.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


def _memory_of(folder: Path) -> Path:
    described = f"{_LAYOUT}\0{IMAGE_SUFFIXES}\0".encode() + os.fsencode(folder.absolute())
    return cache_folder("listings") / f"{hashlib.sha256(described).hexdigest()}.npz"


def _as_bytes(stamps: _Stamps, files: dict[str, list[str]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        folders=_packed(list(stamps)),
        stamps=np.array(list(stamps.values()), dtype=np.uint64),
        classes=_packed(list(files)),
        counts=np.array([len(paths) for paths in files.values()], dtype=np.int64),
        files=_packed([path for paths in files.values() for path in paths]),
    )
    return buffer.getvalue()


def _recall(memory: Path, folder: Path) -> dict[str, list[str]] | None:
    """What is remembered, if it is still so."""
    if not memory.is_file():
        return None
    try:
        with memory.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            folders, classes, files = (_unpacked(stored[name]) for name in ("folders", "classes", "files"))
            stamps, counts = stored["stamps"].tolist(), stored["counts"].tolist()
        if len(folders) != len(stamps) or len(classes) != len(counts) or len(files) != sum(counts):
            return None
        if any(_stamp(folder / below) != tuple(stamp) for below, stamp in zip(folders, stamps, strict=True)):
            return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # a folder that is gone, or a damaged memory
        return None
    ends = np.cumsum(counts).tolist()
    return {name: files[end - count : end] for name, count, end in zip(classes, counts, ends, strict=True)}


def _packed(names: list[str]) -> NDArray[np.uint8]:
    """Names as one array; no file name has a zero byte."""
    return np.frombuffer(os.fsencode("".join(f"{name}\0" for name in names)), dtype=np.uint8)


def _unpacked(names: NDArray[np.uint8]) -> list[str]:
    return os.fsdecode(names.tobytes()).split("\0")[:-1]


def _opened(folder: Path) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(folder)
    except OSError as error:
        raise DataError(
            f"Folder {printable(str(folder))} cannot be listed: {error.strerror}.", hint="Check its permissions."
        ) from error
