"""Which image files lie in the class folders of a folder; remembered, so that a million are listed once. No torch."""

import hashlib
import io
import os
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coatnet.data.images import image_format
from coatnet.data.samples import printable
from coatnet.data.user_cache import cache_folder, remember
from coatnet.errors import DataError

# What counts as an image; a wrong suffix on a real image is no hindrance, the bytes decide. HEIC cannot be opened and
# counts too: a phone's photographs would else be left out without a word.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif"),
)
# A file with another suffix is looked into, for browsers and scripts write photo.jpg_large or none; but not with these:
# texts and archives, of which there may be one for each image, and raw photographs, which look like TIFF but are not.
_OTHER_SUFFIXES = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".html", ".yaml", ".yml", ".py", ".ipynb", ".log"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".parquet", ".npy", ".npz", ".h5", ".mat", ".pt", ".db", ".ini"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".pef", ".srw", ".raf", ".nrw", ".3fr", ".iiq"),
}
# What operating systems, archivers, network disks and notebooks keep for themselves, thumbnails among it.
_FOREIGN_FOLDERS = {
    *("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("__pycache__", "thumbs.db"),
}
NO_SUFFIX, HIDDEN, BROKEN_LINKS = "no suffix", "hidden", "broken links"
OUTSIDE = "images outside of the class folders"
RUNS = "folders of coatnet runs"
"""Why a file or folder is left out, where its suffix does not say it."""
# The bytes that tell a format: of AVIF the brands of its first box.
_HEAD_BYTES = 64
# Reasons that one line tells.
_MOST_REASONS = 6
# Fewer files are listed in a tenth of a second (benchmarks/shards.md) and need no memory.
REMEMBERED_FROM = 10_000
# A folder that changed so shortly before it was listed may change again without a newer time: FAT counts in 2 s.
SETTLED_SECONDS = 2.0
# Changes when the stored form does.
_LAYOUT = "2"

# By path below the listed folder, what changes when a file in a folder is added, removed or renamed.
_Stamps = dict[str, tuple[int, int, int, int]]


class Listing(NamedTuple):
    """What lies in the class folders of a folder.

    Attributes:
        files: by name of the class folder, sorted, also of one without images: the paths of its images below the listed
            folder, sorted, with `/` between their parts.
        left_out: how many files and folders are not used, by suffix or by another reason.
        by_content: how many images have no suffix of an image.
    """

    files: dict[str, list[str]]
    left_out: dict[str, int]
    by_content: int


def list_classes(folder: Path) -> Listing:
    """The image files of every class folder, in it and in the folders in it.

    The list is remembered in the user's cache folder, with the times and numbers of all the folders it came from. If
    one of them differs, everything is listed anew.

    Raises:
        DataError: a folder cannot be listed.
    """
    memory = _memory_of(folder)
    known = _recall(memory, folder)
    if known is not None:
        return known
    started = time.time_ns()
    walk = _Walk(folder)
    walk.stamps[""] = _stamp(folder)
    found, below = walk.entries("")
    walk.left_out[OUTSIDE] += len(found)
    files: dict[str, list[str]] = {}
    for name in sorted(below):
        walk.seen = {walk.stamps[""][2:]}  # a link back to the listed folder is no part of a class
        files[name] = sorted(walk.images(name), key=lambda path: path.split("/"))
    listing = Listing(files, dict(sorted((+walk.left_out).items())), walk.by_content)
    newest = max(max(changed) for *changed, _, _ in walk.stamps.values())
    settled = newest < started - SETTLED_SECONDS * 1e9
    if settled and sum(map(len, files.values())) >= REMEMBERED_FROM:
        remember(memory, _as_bytes(walk.stamps, listing))
    return listing


def list_images(folder: Path) -> tuple[list[str], dict[str, int]]:
    """The paths of the images below a folder at any depth, sorted as in `list_classes`; and what is left out."""
    walk = _Walk(folder)
    return sorted(walk.images(""), key=lambda path: path.split("/")), dict(sorted((+walk.left_out).items()))


def look_into(folder: Path) -> tuple[list[str], int, dict[str, int]]:
    """The names of the folders in a folder, sorted; how many images lie in it; and what else does, by reason."""
    walk = _Walk(folder)
    images, below = walk.entries("")
    return sorted(below), len(images), dict(sorted((+walk.left_out).items()))


def tell_left_out(left_out: Mapping[str, int]) -> tuple[str, ...]:
    """A line for the user of what is not used; none if that is nothing."""
    if not left_out:
        return ()
    most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count:,} {printable(reason)}" for reason, count in most[:_MOST_REASONS])
    more = sum(count for _, count in most[_MOST_REASONS:])
    return (f"Left out: {told}{f' and {more:,} others' if more else ''}.",)


class _Walk:
    """One walk through the folders below a root.

    Attributes:
        stamps: of each folder that was listed.
        left_out: what is no image, by suffix or another reason.
        by_content: images that only their bytes told.
        seen: device and inode of the folders that were walked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamps: _Stamps = {}
        self.left_out: Counter[str] = Counter()
        self.by_content = 0
        self.seen: set[tuple[int, int]] = set()

    def images(self, below: str) -> Iterator[str]:
        """Image files of a folder and the folders in it; each real folder once, so links in a loop end."""
        stamp = _stamp(self.root / below)
        if stamp[2:] in self.seen:
            return
        self.seen.add(stamp[2:])
        self.stamps[below] = stamp  # taken before the folder is listed: a change in between is seen the next time
        found, folders = self.entries(below)
        for name in found:
            yield f"{below}/{name}".lstrip("/")
        for name in folders:
            yield from self.images(f"{below}/{name}".lstrip("/"))

    def entries(self, below: str) -> tuple[list[str], list[str]]:
        """Names of the images and of the folders in one folder; what is neither is counted."""
        images: list[str] = []
        folders: list[str] = []
        with _opened(self.root / below) as entries:
            for entry in entries:
                reason = self._reason(entry)
                if reason is None:
                    (folders if _is_folder(entry) else images).append(entry.name)
                else:
                    self.left_out[reason] += 1
        return images, folders

    def _reason(self, entry: "os.DirEntry[str]") -> str | None:
        """Why an entry is left out; None for an image and for a folder of the data."""
        name = entry.name.lower()
        if name.startswith("."):
            return HIDDEN
        if _is_folder(entry):
            if name in _FOREIGN_FOLDERS:
                return f"folders {entry.name}"
            return RUNS if _holds_runs(Path(entry.path)) else None
        if name.endswith(IMAGE_SUFFIXES):
            return None
        suffix = os.path.splitext(name)[1]
        if suffix not in _OTHER_SUFFIXES and _is_image(entry):
            self.by_content += 1
            return None
        return BROKEN_LINKS if entry.is_symlink() and not os.path.exists(entry.path) else suffix or NO_SUFFIX


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: "os.DirEntry[str]") -> bool:
    """Whether the first bytes of a file are those of an image; nothing but a plain file is opened."""
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb", buffering=0) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    kind = image_format(head)
    return kind is not None and (kind != "BMP" or head[6:10] == bytes(4))  # "BM" alone begins texts too


def _holds_runs(folder: Path) -> bool:
    """Whether a folder is a run or a page of ours, or the folder runs/ that holds some: its pictures are no data."""
    if (folder / "config.json").is_file():
        return any((folder / name).exists() for name in ("environment.json", "fingerprint.json", ".starting"))
    if folder.name != "runs":
        return False
    with _opened(folder) as entries:
        return any(
            (entry.name.startswith("scan-") and entry.name.endswith(".html"))
            or (_is_folder(entry) and (Path(entry.path) / "environment.json").is_file())
            for entry in entries
        )


def _stamp(folder: Path) -> tuple[int, int, int, int]:
    """Times of change, of which programs that copy folders set the first but cannot set the second; device, inode."""
    status = folder.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


def _memory_of(folder: Path) -> Path:
    described = f"{_LAYOUT}\0{IMAGE_SUFFIXES}\0".encode() + os.fsencode(folder.absolute())
    return cache_folder("listings") / f"{hashlib.sha256(described).hexdigest()}.npz"


def _as_bytes(stamps: _Stamps, listing: Listing) -> bytes:
    files = listing.files
    buffer = io.BytesIO()
    np.savez(
        buffer,
        folders=_packed(list(stamps)),
        stamps=np.array(list(stamps.values()), dtype=np.uint64),
        classes=_packed(list(files)),
        counts=np.array([len(paths) for paths in files.values()], dtype=np.int64),
        files=_packed([path for paths in files.values() for path in paths]),
        reasons=_packed(list(listing.left_out)),
        left_out=np.array([*listing.left_out.values(), listing.by_content], dtype=np.int64),
    )
    return buffer.getvalue()


def _recall(memory: Path, folder: Path) -> Listing | None:
    """What is remembered, if it is still so."""
    if not memory.is_file():
        return None
    try:
        with memory.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            lists = (_unpacked(stored[name]) for name in ("folders", "classes", "files", "reasons"))
            folders, classes, files, reasons = lists
            stamps, counts, left_out = (stored[name].tolist() for name in ("stamps", "counts", "left_out"))
        if len(folders) != len(stamps) or len(classes) != len(counts) or len(files) != sum(counts):
            return None
        if len(left_out) != len(reasons) + 1:
            return None
        if any(_stamp(folder / below) != tuple(stamp) for below, stamp in zip(folders, stamps, strict=True)):
            return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # a folder that is gone, or a damaged memory
        return None
    ends = np.cumsum(counts).tolist()
    by_class = {name: files[end - count : end] for name, count, end in zip(classes, counts, ends, strict=True)}
    return Listing(by_class, dict(zip(reasons, left_out, strict=False)), left_out[-1])


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
