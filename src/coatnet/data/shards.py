"""Tar shards in the WebDataset convention, on disk or in an object store, read sample by sample. No torch.

The order of training is a function of seed and position, as for every other source, so a run over shards resumes
exactly; what the convention's own readers do with a shuffle buffer cannot.
"""

import hashlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.data.folders import Found
from coatnet.data.images import ImageError, ImageLimits, check_bytes
from coatnet.data.samples import Source, printable
from coatnet.data.shard_index import CLASSES_NAME, INDEX_NAME, ShardIndex, find_index
from coatnet.data.split_names import split_of
from coatnet.data.storage import RemoteStorage, Storage, StoredFile, open_storage
from coatnet.data.user_cache import cache_folder
from coatnet.errors import DataError

_DEFAULT_LIMITS = ImageLimits()


class ShardSource(Source):
    """Images that are members of tar files.

    Args:
        storage: where the tar files lie.
        index: what lies where in them; all of it.
        rows: (samples,) int64, the rows of the index that are the samples.
        copies: images read before, for a storage that is far away.
    """

    def __init__(
        self, storage: Storage, index: ShardIndex, rows: NDArray[np.int64], copies: "LocalCopies | None" = None
    ) -> None:
        super().__init__(index.header.class_names, index.labels[rows], [index.names[row] for row in rows])
        self.storage, self.index, self.rows, self.copies = storage, index, rows, copies
        self.shard_names = list(index.header.shards)

    def read(self, index: int, limits: ImageLimits = _DEFAULT_LIMITS) -> bytes:
        """As `Source.read`."""
        row = int(self.rows[index])
        length = int(self.index.lengths[row])
        check_bytes(length, limits)
        data = self.copies.get(row) if self.copies else None
        if data is not None:
            return data
        shard = self.shard_names[self.index.shards[row]]
        try:
            data = self.storage.read(shard, int(self.index.offsets[row]), length)
        except OSError as error:
            raise ImageError("unreadable", error.strerror or str(error), self.names[index]) from error
        if len(data) != length:
            raise ImageError("unreadable", f"shard '{printable(shard)}' ends within it", self.names[index])
        if self.copies:
            self.copies.put(row, data)
        return data


class LocalCopies:
    """Images of an object store kept on disk once they were read: all where there is room, else the first ones.

    There is one file with a place for every image that may be kept, and a table of their CRC-32, 0 for those that are
    not there yet. Any number of processes use both at once, and a power cut harms nothing: what does not match its
    checksum is read again. Nothing is ever thrown out for something else, since in training every image is read once
    an epoch: what was thrown out would be wanted before what took its place.

    Args:
        folder: where the two files are.
        lengths: (samples,) int64, bytes of each image.
        most: bytes that may be taken; by default half of what is free on the disk, since others need room too.
    """

    def __init__(self, folder: Path, lengths: NDArray[np.int64], most: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        images, checksums = folder / "images", folder / "checksums"
        for path in (images, checksums):
            path.touch()
        taken = images.stat().st_blocks * 512
        most = (shutil.disk_usage(folder).free + taken) // 2 if most is None else most
        self._ends = np.cumsum(lengths)
        self._num_kept = int(np.searchsorted(self._ends, most, side="right"))
        with checksums.open("r+b") as file:
            file.truncate(4 * len(lengths))  # zeros, if it is new
        self._checksums = np.memmap(checksums, dtype=np.uint32, mode="r+", shape=(len(lengths),))
        self._storage = open_storage(str(folder))
        self._images = images
        self._lengths = lengths

    def get(self, row: int) -> bytes | None:
        """An image that was kept, None if it was not."""
        if row >= self._num_kept or not self._checksums[row]:
            return None
        length = int(self._lengths[row])
        data = self._storage.read(self._images.name, int(self._ends[row]) - length, length)
        return data if zlib.crc32(data) == self._checksums[row] else None

    def put(self, row: int, data: bytes) -> None:
        """Keep an image, if there is room."""
        if row >= self._num_kept:
            return
        try:
            with self._images.open("r+b") as file:
                file.seek(int(self._ends[row]) - len(data))
                file.write(data)
        except OSError:  # a full disk: it is read from afar the next time too
            self._num_kept = 0
            return
        self._checksums[row] = zlib.crc32(data)


def is_shards(folder: Path) -> bool:
    """Whether a folder holds tar shards: in itself, without folders beside them, or in folders named as splits.

    An archive that lies beside the class folders that were unpacked from it makes no shards.
    """
    if any(folder.glob("*.tar")):
        is_class = (path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())
        return (folder / INDEX_NAME).is_file() or not any(is_class)
    return any(split_of(path.parent.name) for path in folder.glob("*/*.tar"))


def read_shards(path: str) -> Found:
    """Find the samples of a folder or an address with tar shards, or of one tar file.

    Their splits are folders (`train/`, `val/`) or words of their names (`imagenet-train-000.tar`).

    Raises:
        DataError: no shards, shards that are damaged, or labels that do not fit together.
        MissingPartError: what such an address needs is not installed.
    """
    folder, _, only = path.rpartition("/") if path.endswith(".tar") else (path, "", "")
    storage = open_storage(folder or ".")
    files = storage.files()
    if only:  # an index of its neighbours is not its own
        files = {name: file for name, file in files.items() if name in (only, CLASSES_NAME)}
    shards = sorted(name for name in files if name.endswith(".tar"))
    split_folders = [name for name in shards if name.count("/") == 1 and split_of(name.split("/")[0])]
    shards = split_folders or [name for name in shards if "/" not in name]
    if not shards:
        raise DataError(
            f"No tar shards in {printable(path)}.",
            hint="Expected are .tar files there, or in train/, val/ and test/; `coatnet pack` makes them.",
        )
    index, notes = find_index(storage, files, shards)
    copies = _local_copies(storage, files, index) if isinstance(storage, RemoteStorage) else None
    parts: dict[str, Source] = {
        part: ShardSource(storage, index, np.flatnonzero(index.parts == part), copies)
        for part in sorted(set(index.parts.tolist()))
    }
    return Found(parts, tuple(notes))


def _local_copies(storage: Storage, files: dict[str, StoredFile], index: ShardIndex) -> LocalCopies | None:
    """The copies of exactly these shards: of others, even in the same place, there are others; None without a place."""
    described = [storage.root, [files[shard] for shard in index.header.shards], index.offsets.tolist()]
    name = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    try:
        return LocalCopies(cache_folder("remote") / name, index.lengths)
    except OSError:  # a full disk or a home that is read only: images are read from afar each time
        return None
