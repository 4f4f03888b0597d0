"""What `coatnet predict` does: find the images, answer each one, and go on after one that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coatnet.classifier import Classifier, Prediction
from coatnet.classifier.inputs import as_array
from coatnet.data.images import ImageError, ImageLimits
from coatnet.data.listing import IMAGE_SUFFIXES, list_images, tell_left_out
from coatnet.data.samples import printable
from coatnet.data.storage import address_of
from coatnet.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_SIZE, BATCH_PIXELS = 32, 50_000_000
"""A batch ends when it holds so many images, or so many pixels (150 MB), whichever comes first."""

STANDARD_INPUT = Path("-")

Answer = tuple[Path, Prediction | ImageError]


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and the images in the folders among them at any depth, as training finds them; what a
    folder holds besides is told on standard error.

    Raises:
        ConfigError: an address, or standard input where nothing comes from it.
        DataError: a folder without images.
    """
    _check_places(paths)
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        below, left_out = list_images(path)
        told = tell_left_out(left_out)
        if not below:
            raise DataError(
                f"no images in {printable(str(path))}{''.join(f'; {line}' for line in told)}",
                f"images end in {', '.join(IMAGE_SUFFIXES)}",
            )
        sys.stderr.writelines(f"{printable(str(path))}: {line}\n" for line in told)
        found += [path / name for name in below]
    return found


def read_image(path: Path) -> NDArray[np.uint8]:
    """The image in a file, or in what standard input holds.

    Raises:
        ImageError: it cannot be read.
    """
    if path != STANDARD_INPUT:
        return as_array(path)
    try:
        return as_array(sys.stdin.buffer.read(ImageLimits().max_bytes + 1))
    except ImageError as error:
        raise error.named(str(path)) from error


def _check_places(paths: Sequence[Path]) -> None:
    for path in paths:
        if address := address_of(path):
            raise ConfigError(
                f"{printable(address)} is an address; only files are read",
                "fetch it yourself: curl -s ADDRESS | coatnet predict CLASSIFIER -",
            )
    times = paths.count(STANDARD_INPUT)
    if times > 1:
        raise ConfigError(f"- is given {times} times", "standard input holds one image: give - once")
    if times and (sys.stdin is None or sys.stdin.isatty()):
        raise ConfigError("- reads an image from standard input, and nothing is sent to it", "write - < IMAGE")


def answers(classifier: Classifier, paths: Sequence[Path], top: int) -> Iterator[Answer]:
    """The answer for each image, in order; an ImageError for one that cannot be read."""
    pending: list[tuple[Path, NDArray[np.uint8] | ImageError]] = []
    num_pixels = 0
    for path in paths:
        try:
            image = read_image(path)
            num_pixels += image.shape[0] * image.shape[1]
            pending.append((path, image))
        except ImageError as error:
            pending.append((path, error))
        if len(pending) == BATCH_SIZE or num_pixels >= BATCH_PIXELS:
            yield from _answered(classifier, pending, top)
            pending, num_pixels = [], 0
    yield from _answered(classifier, pending, top)


def check_all_read(unread: Sequence[Path]) -> None:
    """After all were answered, say that some were not.

    Raises:
        DataError: some could not be read.
    """
    if unread:
        names = ", ".join(printable(str(path)) for path in unread[:3]) + (", ..." if len(unread) > 3 else "")
        count = "1 image" if len(unread) == 1 else f"{len(unread)} images"
        raise DataError(f"{count} could not be read: {names}", "the line of each says why; the others are answered")


def _answered(
    classifier: Classifier, pending: Sequence[tuple[Path, NDArray[np.uint8] | ImageError]], top: int
) -> Iterator[Answer]:
    images = [image for _, image in pending if not isinstance(image, ImageError)]
    predictions = iter(classifier.predict(images, top) if images else [])
    for path, image in pending:
        yield path, image if isinstance(image, ImageError) else next(predictions)
