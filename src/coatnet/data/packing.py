"""Packing a data set into tar shards: one pass, the same bytes whenever it is done. No torch."""

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from coatnet.data.images import ImageError, ImageLimits, check_format, decode
from coatnet.data.loader import default_threads
from coatnet.data.samples import Source, printable
from coatnet.data.shard_index import CLASSES_NAME, INDEX_NAME, IndexHeader, ShardIndex
from coatnet.data.sources import DataConfig, find_parts
from coatnet.data.storage import is_address
from coatnet.errors import ConfigError, DataError
from coatnet.frozen import Frozen

_SUFFIXES = {
    **{"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"},
    "PPM": "ppm",
}
# Samples prepared at once: enough to keep the threads busy, and some tens of megabytes.
_BLOCK = 256
_LIMITS = ImageLimits()


class PackConfig(Frozen):
    """How images are packed."""

    size: int | None = Field(default=None, ge=1)
    """Shorter side in pixels: larger images are resized to it (Pillow, bicubic) and stored as JPEG; by default every
    file stays as it is, byte for byte."""
    # Photographs of 224 px, 10.3 kB on average, resized to 160 px: 7.6 kB at 85, 9.3 kB at 90, 12.7 kB at 95.
    quality: int = Field(default=90, ge=1, le=95)
    """JPEG quality of images that are resized; above 95 Pillow's files grow without a gain."""
    shard_size: int = Field(default=256, ge=1)
    """Largest size of a tar file in millions of bytes, unless one image alone is larger."""


class Packed(NamedTuple):
    """What was packed.

    Attributes:
        folder: where the shards are.
        num_images: samples packed.
        num_shards: tar files.
        num_bytes: bytes of all tar files.
        unreadable: name and reason of every image that could not be read and was left out.
        notes: what the source had to say.
    """

    folder: Path
    num_images: int
    num_shards: int
    num_bytes: int
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]


def pack(data: DataConfig, folder: Path, config: PackConfig) -> Packed:
    """Write the samples of a data set, in its order, as tar shards with an index and the names of the classes.

    The shards are made in `folder.unfinished` beside, which becomes `folder` when all is there.

    Raises:
        ConfigError: the folder cannot be used.
        DataError: the data cannot be read; of single images, `Packed.unreadable` tells.
    """
    _check_folder(folder)
    found = find_parts(data)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        unfinished.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(
            f"{printable(str(unfinished))} is in the way: another is packing there, or was stopped.",
            hint="Remove it if nobody is.",
        ) from error
    try:
        packing = _Packing(unfinished, config, found.parts)
        packing.write()
        if folder.is_dir():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Packed(
        folder,
        len(packing.rows),
        len(packing.shards),
        sum(packing.shards.values()),
        tuple(packing.unreadable),
        found.notes,
    )


class _Row(NamedTuple):
    part: str
    shard: int
    offset: int
    length: int
    label: int
    name: str


class _Packing:
    """The writing of one set of shards."""

    def __init__(self, folder: Path, config: PackConfig, parts: dict[str, Source]) -> None:
        self.folder, self.config, self.parts = folder, config, parts
        self.rows: list[_Row] = []
        self.shards: dict[str, int] = {}
        self.unreadable: list[str] = []
        self._tar: tarfile.TarFile | None = None

    def write(self) -> None:
        for part, source in self.parts.items():
            for number, image in self._images(source):
                if isinstance(image, ImageError):
                    self.unreadable.append(image.named(source.names[number]).message)
                else:
                    self._add(part, source, number, image)
            self._close()
        if not self.rows:
            raise DataError("None of the images can be read.", hint="Check that they are image files.")
        class_names = next(iter(self.parts.values())).class_names
        (self.folder / CLASSES_NAME).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
        parts, shards, offsets, lengths, labels, names = zip(*self.rows, strict=True)
        index = ShardIndex(
            IndexHeader(class_names=class_names, shards=self.shards),
            np.array(parts),
            np.array(shards, dtype=np.int64),
            np.array(offsets, dtype=np.int64),
            np.array(lengths, dtype=np.int64),
            np.array(labels, dtype=np.int64),
            names,
        )
        (self.folder / INDEX_NAME).write_bytes(index.as_parquet())

    def _images(self, source: Source) -> Iterator[tuple[int, bytes | ImageError]]:
        """Every image as it is to be stored, or why it cannot be read."""

        def load(index: int) -> bytes | ImageError:
            try:
                return _shrunk(source.read(index), self.config)
            except ImageError as error:
                return error

        with ThreadPoolExecutor(default_threads()) as pool:  # Pillow works outside of Python's lock
            for start in range(0, len(source), _BLOCK):
                block = range(start, min(start + _BLOCK, len(source)))
                yield from zip(block, pool.map(load, block), strict=True)

    def _add(self, part: str, source: Source, index: int, image: bytes) -> None:
        if self._tar is None or self._tar.offset + len(image) > self.config.shard_size * 1_000_000:
            self._close()
            name = f"{'shard' if part == 'all' else part}-{sum(row == part for row in map(_part, self.shards)):06d}.tar"
            self._tar = tarfile.open(self.folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (`_close`)
            self.shards[name] = 0
        tar, key = self._tar, f"{part}-{index:08d}"
        label = int(source.labels[index])
        offset = _write(tar, f"{key}.{_SUFFIXES[check_format(image, _LIMITS)]}", image)
        _write(tar, f"{key}.cls", str(label).encode())
        self.rows.append(_Row(part, len(self.shards) - 1, offset, len(image), label, source.names[index]))

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            path = Path(os.fsdecode(self._tar.name or b""))
            self.shards[path.name] = path.stat().st_size
            self._tar = None


def _shrunk(data: bytes, config: PackConfig) -> bytes:
    """An image no larger than it is to be; one that is not larger keeps its bytes."""
    check_format(data, _LIMITS)
    if config.size is None:
        return data
    pixels = decode(data, _LIMITS)
    height, width = pixels.shape[:2]
    factor = config.size / min(height, width)
    if factor >= 1:
        return data
    resized = Image.fromarray(pixels).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=config.quality)
    return buffer.getvalue()


def _part(shard: str) -> str:
    name = shard.rpartition("-")[0]
    return "all" if name == "shard" else name


def _write(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file; where its bytes begin. Time and owner are left at zero, so that the same data gives the same file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(info, io.BytesIO(data))
    return offset


def _check_folder(folder: Path) -> None:
    if is_address(str(folder)) or ":/" in str(folder):
        raise ConfigError(f"{folder} is not on this machine.", hint="Pack into a folder, then copy it there.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{printable(str(folder))} is a file.", hint="Choose a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{printable(str(folder))} is not empty.", hint="Choose a new folder.")
