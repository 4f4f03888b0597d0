"""What `predict` takes as an image, made an RGB array."""

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from coatnet.data.images import ImageError, ImageLimits, decode, read_file
from coatnet.data.samples import printable
from coatnet.data.storage import address_of
from coatnet.errors import ConfigError

_ACCEPTED = "Give a path, bytes, a Pillow image or an (H, W, 3) uint8 RGB array; several of them as a list."
AnyImage: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8]


def as_array(image: AnyImage, limits: ImageLimits = ImageLimits()) -> NDArray[np.uint8]:  # noqa: B008 (frozen)
    """Any image as an (H, W, 3) uint8 RGB array; all but arrays pass the gate of `data.images`.

    Raises:
        ImageError: it cannot be read; a path is named.
        ConfigError: it is no image.
    """
    if isinstance(image, os.PathLike):
        image = Path(image)
    if isinstance(image, (str, Path)) and (address := address_of(image)):
        raise ConfigError(
            f"{printable(address)} is an address; only files are read.", "Download it, and give the path or the bytes."
        )
    if isinstance(image, (str, Path)):
        try:
            return decode(read_file(Path(image), limits), limits)
        except ImageError as error:
            raise error if error.name else error.named(str(image)) from error
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode(bytes(image), limits)
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    try:
        array = np.asarray(image)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor on a GPU, or one that has a gradient
        raise ConfigError(
            f"{type(image).__name__} is not an image: {str(error).partition(chr(10))[0]}", _ACCEPTED
        ) from None
    if array.dtype == object:
        raise ConfigError(f"{type(image).__name__} is not an image.", _ACCEPTED)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ConfigError(
            f"{type(image).__name__} of {array.dtype} and shape {array.shape} is not an image.",
            _ACCEPTED,
        )
    return array


def _from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """Through the gate as TIFF, which holds every mode without loss, so that each becomes RGB in the one known way."""
    try:
        upright = ImageOps.exif_transpose(image)
    except ValueError as error:  # Pillow's, of an image that was closed
        raise ConfigError(f"the Pillow image cannot be used: {error}", "Open it again, or load it first.") from None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
    buffer = io.BytesIO()
    try:
        upright.save(buffer, "TIFF", exif=Image.Exif(), icc_profile=None)
    except OSError as error:
        detail = f"colour mode {upright.mode}; expected grey, RGB or CMYK"
        raise ImageError("unsupported_format", detail) from error
    return decode(buffer.getvalue(), ImageLimits(max_bytes=len(buffer.getvalue())))
