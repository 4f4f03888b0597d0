"""Decoded training images kept in memory, where they fit. No torch."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.data.images import ImageError, ImageLimits, decode
from coatnet.data.samples import Source
from coatnet.ranks import local_world_size

# At most a quarter of what is free, since the network and other programs need memory too, and never above 4 GiB:
# beyond that the time to fill it is longer than what it saves in a short run.
_SHARE_OF_FREE = 0.25
_MOST = 4 << 30
# So many images, spread evenly, tell beforehand whether the rest would fit.
_NUM_PROBED = 64
_BLOCK = 256


@dataclass(frozen=True)
class DecodedImages:
    """Images in one flat buffer, which worker processes share without copies.

    Attributes:
        pixels: (bytes,) uint8, the images one after the other.
        offsets: (samples,) where each begins.
        shapes: (samples, 2) height and width; 0, 0 for an image that cannot be read.
        errors: by index, why an image cannot be read.
    """

    pixels: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int64]
    errors: dict[int, ImageError] = field(default_factory=dict)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Image (H, W, 3), a view of the buffer; its `ImageError` is raised if it has one."""
        if index in self.errors:
            raise self.errors[index]
        height, width = self.shapes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


def read_image(source: Source, index: int, limits: ImageLimits, enough: int | None = None) -> NDArray[np.uint8]:
    """Decode one sample to (H, W, 3) uint8, see `decode`; the `ImageError` names the sample."""
    try:
        return decode(source.read(index, limits), limits, enough)
    except ImageError as error:
        raise error.named(source.names[index]) from error


def decode_all(
    source: Source, load: Callable[[int], NDArray[np.uint8]], num_threads: int, budget: int | None = None
) -> DecodedImages | None:
    """Decode every image once.

    Args:
        source: the samples.
        load: what is kept of the image at an index, such as a smaller version, or its `ImageError`.
        num_threads: Pillow decodes outside Python's lock, so threads help.
        budget: bytes that may be used; by default `default_budget()`.

    Returns:
        None if the images do not fit.
    """
    budget = default_budget() if budget is None else budget

    def loaded(index: int) -> NDArray[np.uint8] | ImageError:
        try:
            return load(index)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        probed = range(0, len(source), max(1, len(source) // _NUM_PROBED))
        sizes = [_num_bytes(image) for image in pool.map(loaded, probed)]
        if sum(sizes) / len(sizes) * len(source) > budget:
            return None
        images: list[NDArray[np.uint8] | ImageError] = []
        for start in range(0, len(source), _BLOCK):
            block = list(pool.map(loaded, range(start, min(start + _BLOCK, len(source)))))
            budget -= sum(map(_num_bytes, block))
            if budget < 0:
                return None
            images += block
    return _flattened(images)


def default_budget() -> int:
    """How many bytes decoded images may take: a quarter of the memory that is free, and at most 4 GiB; processes of one
    run share it."""
    return min(_MOST, int(_SHARE_OF_FREE * free_memory()) // local_world_size())


def _num_bytes(image: NDArray[np.uint8] | ImageError) -> int:
    return 0 if isinstance(image, ImageError) else image.nbytes


def _flattened(images: list[NDArray[np.uint8] | ImageError]) -> DecodedImages:
    """Move the images into one buffer; the list is emptied on the way, so that there are never two of all of them."""
    shapes = np.array([(0, 0) if isinstance(image, ImageError) else image.shape[:2] for image in images], np.int64)
    sizes = shapes.prod(axis=1) * 3
    offsets = np.cumsum(sizes) - sizes
    pixels = np.empty(int(sizes.sum()), dtype=np.uint8)
    errors: dict[int, ImageError] = {}
    images.reverse()
    for index in range(len(sizes)):
        image = images.pop()
        if isinstance(image, ImageError):
            errors[index] = image
        else:
            pixels[offsets[index] : offsets[index] + sizes[index]] = image.reshape(-1)
    return DecodedImages(pixels, offsets, shapes, errors)


def free_memory() -> int:
    """Bytes that can be used without swapping, within the limit of the container where there is one."""
    free = [1 << 30]  # where the system does not say
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
    elif "SC_PHYS_PAGES" in os.sysconf_names:
        free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    most, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if most.exists() and used.exists() and most.read_text().strip().isdigit():
        free.append(max(0, int(most.read_text()) - int(used.read_text())))
    return min(free)
