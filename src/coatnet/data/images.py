"""The one gate that every image passes: bytes in, an RGB array or an `ImageError` out. No torch.

What each kind of file becomes:

- the first frame of an animation; the EXIF orientation is applied, and damaged EXIF is ignored
- 1, L, P, CMYK, YCbCr: Pillow's conversion to RGB
- anything with transparency (LA, RGBA, PA, a transparent colour): laid over `BACKGROUND`
- grey of more than 8 bits and floating point: scaled by the white that the file tells (maxval, MaxSampleValue, sBIT),
  else by the lowest of 1 (floating point only), 255, 4095 and 65535 that no level exceeds, else by the range found;
  NaN and infinite levels are refused

Its cost is bounded before a pixel is decoded: `containers` gives decoders only the blocks that pixels need, and tells
up to how many pixels that kind of file stays below 500 MB and 2 s.
"""

import hashlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from coatnet.data.containers.container import Container, ContainerError
from coatnet.data.containers.jpeg import endings
from coatnet.data.containers.png import is_interlaced, rows_missing
from coatnet.data.containers.reading import READERS
from coatnet.data.levels import find_levels
from coatnet.data.refused_formats import refusal
from coatnet.errors import DataError
from coatnet.frozen import Frozen
from coatnet.quiet import ignore_warnings

# What a server opens: the three formats of the web. Every further decoder is more surface for hostile bytes,
# and libtiff writes to the process's stderr for each bad file.
STRICT_FORMATS = ("JPEG", "PNG", "WEBP")
# What a user's own data set may hold besides: older collections come as BMP, GIF and TIFF, newer ones as AVIF; those of
# traffic signs and of early research as PPM, PGM and PBM.
LOCAL_FORMATS = (*STRICT_FORMATS, "GIF", "BMP", "TIFF", "AVIF", "PPM")
# White, what a viewer and a printed page show behind a transparent picture.
BACKGROUND = (255, 255, 255)

CODES = (
    "empty",
    "too_large_bytes",
    "unsupported_format",
    "too_many_pixels",
    "extreme_aspect",
    "truncated",
    "corrupt",
    "unreadable",
)

_AVIF_BRANDS = (b"avif", b"avis")
# Pillow does not open them, but phones write them: their owner is told what they are (ISO/IEC 23008-12, annex B.4).
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# EXIF tag 0x0112 -> what puts the picture upright (EXIF 2.32, section 4.6.4).
_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The same on arrays, where turning is a view.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: rgb[::-1].transpose(1, 0, 2),
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rgb: rgb[:, ::-1].transpose(1, 0, 2),
}
_STRIP_PIXELS = 1 << 20
_COLUMNS = 64


class ImageLimits(Frozen):
    """What an image may be before it is decoded. The default is for a user's own data."""

    max_bytes: int = Field(default=20_000_000, gt=0)
    """Largest file in bytes."""
    max_pixels: int = Field(default=50_000_000, gt=0)
    """Largest width times height: 50 million pixels are 150 MB as RGB."""
    max_aspect_ratio: float = Field(default=100.0, ge=1)
    """Longest side over shortest side."""
    formats: tuple[str, ...] = LOCAL_FORMATS
    """Pillow's names of the formats that are opened at all; `STRICT_FORMATS` for a server."""


class ImageError(DataError):
    """An image that is refused.

    Args:
        code: one of `CODES`.
        detail: what was got and what was expected, one line.
        name: the file or sample, if known.
    """

    def __init__(self, code: str, detail: str, name: str = "") -> None:
        assert code in CODES, code
        self.code = code
        self.detail = _one_line(detail)
        self.name = name
        super().__init__(f"{_one_line(name)}: {code}: {self.detail}" if name else f"{code}: {self.detail}")

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str, str]]:
        return type(self), (self.code, self.detail, self.name)  # it crosses from worker processes

    def named(self, name: str) -> "ImageError":
        """The same error with the name of the file or sample in its message."""
        return ImageError(self.code, self.detail, name)


def decode(
    data: bytes,
    limits: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    enough: int | None = None,
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file.

    Args:
        data: the whole file.
        limits: bounds on bytes, pixels and aspect ratio, checked before a pixel is decoded, and the formats opened.
        enough: shorter side in pixels that will do: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size as long as no
            side falls below it, in a fraction of the time. None decodes all of it.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous and writable, upright.

    Raises:
        ImageError: for every way in which this can fail; nothing else is raised.
    """
    check_bytes(len(data), limits)
    file_format = check_format(data, limits)
    try:
        with ignore_warnings(r"PIL\."):
            return _decoded(data, file_format, limits, enough)
    except ImageError:
        raise
    except ContainerError as error:
        raise ImageError(error.code, str(error)) from error
    except UnidentifiedImageError as error:  # its message holds the address of an object
        raise ImageError("corrupt", f"{file_format} cannot be decoded: its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    # Pillow's plug-ins raise OSError, SyntaxError, ValueError, RuntimeError, struct.error, MemoryError, ...
    except Exception as error:
        code = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError(code, f"{file_format} cannot be decoded: {error or type(error).__name__}") from error


def read_file(path: Path, limits: ImageLimits = ImageLimits()) -> bytes:  # noqa: B008 (frozen)
    """The bytes of an image file; its size is looked at before it is read.

    Raises:
        ImageError: `unreadable` if it is missing, not a plain file or not permitted; `too_large_bytes`; `empty`.
    """
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        # Not blocking: opening a named pipe that lies in a class folder must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable", "not a plain file", name)
            check_bytes(status.st_size, limits, name)
            data = file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:  # a name with a zero byte is no OSError
        raise ImageError("unreadable", getattr(error, "strerror", None) or str(error), name) from error
    check_bytes(len(data), limits, name)
    return data


def _decoded(data: bytes, file_format: str, limits: ImageLimits, enough: int | None) -> NDArray[np.uint8]:
    container = READERS[file_format](data)
    del data  # what is left out needs no memory any more
    read = _pixels_without_end if container.ends_early else _pixels
    rgb = read(container, file_format, limits, enough)
    return _turned(rgb, container.orientation)


def _turned(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Upright and contiguous; copied in columns that fit into a processor's cache, in a third of the time."""
    view = _UPRIGHT[orientation](rgb)
    if view.flags.c_contiguous:
        return rgb
    upright = np.empty(view.shape, np.uint8)
    for left in range(0, view.shape[1], _COLUMNS):
        upright[:, left : left + _COLUMNS] = view[:, left : left + _COLUMNS]
    return upright


def _pixels_without_end(
    container: Container, file_format: str, limits: ImageLimits, enough: int | None
) -> NDArray[np.uint8]:
    """Of a JPEG that lacks its end marker; it has all its pixels if none depends on what would follow."""
    del enough  # in a smaller image the difference of a bit may be lost
    found: set[bytes] = set()
    for data in endings(container.data):
        rgb = _pixels(container._replace(data=data), file_format, limits, None)
        found.add(hashlib.sha256(rgb.data).digest())
        if len(found) > 1:
            raise ImageError("truncated", "JPEG cannot be decoded: its pixels end early")
    return rgb


def _pixels(container: Container, file_format: str, limits: ImageLimits, enough: int | None) -> NDArray[np.uint8]:
    """(H, W, 3) as stored."""
    with Image.open(io.BytesIO(container.data), formats=(file_format,)) as opened:
        image: Image.Image = opened
        _check_size(image.width, image.height, limits, container.max_pixels)
        if enough is not None:
            image.draft(None, (enough, enough))  # does nothing but to a JPEG
        image.load()
        if file_format == "PNG":
            _check_all_rows(image, container.data)
        if file_format == "AVIF":
            image = _turned_by_boxes(image)
        return _to_rgb(image, container)


def check_bytes(num_bytes: int, limits: ImageLimits, name: str = "") -> None:
    """Refuse a file by its size alone.

    Raises:
        ImageError: `empty` or `too_large_bytes`.
    """
    if num_bytes == 0:
        raise ImageError("empty", "0 bytes", name)
    if num_bytes > limits.max_bytes:
        raise ImageError("too_large_bytes", f"{num_bytes} bytes is above {limits.max_bytes}", name)


def check_format(data: bytes, limits: ImageLimits) -> str:
    """Refuse a file by its first bytes.

    Returns:
        Its format, one of `limits.formats`.

    Raises:
        ImageError: `unsupported_format`.
    """
    file_format = image_format(data)
    if file_format is None or file_format not in limits.formats:
        raise ImageError("unsupported_format", refusal(data, file_format, limits.formats))
    return file_format


def _check_size(width: int, height: int, limits: ImageLimits, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"{width}x{height} pixels")
    most = min(limits.max_pixels, max_pixels)
    if width * height > most:
        raise ImageError("too_many_pixels", f"{width}x{height} pixels is above {most}, the most for this kind of file")
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise ImageError("extreme_aspect", f"{width}x{height} is beyond 1:{limits.max_aspect_ratio:g}")


def image_format(data: bytes) -> str | None:
    """The name of the format by the first bytes, Pillow's where it opens it, whatever the file is called."""
    starts = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"GIF87a": "GIF",
        b"GIF89a": "GIF",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"II+\0": "TIFF",
        b"MM\0+": "TIFF",
    }
    for start, name in starts.items():
        if data.startswith(start):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PPM"
    if data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in _AVIF_BRANDS):
        return "AVIF"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "HEIC"
    return None


def _check_all_rows(image: Image.Image, data: bytes) -> None:
    """Refuse a PNG whose data ends early: Pillow leaves the rows that are missing black without a word.

    The data is inflated a second time only where rows may be missing: the last row is black, or rows are interlaced.
    """
    last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
    if last_row.any() and not is_interlaced(data):
        return
    if missing := rows_missing(data):
        raise ImageError("truncated", missing)


def _turned_by_boxes(image: Image.Image) -> Image.Image:
    """An AVIF upright: Pillow tells the turns of its boxes as EXIF that it made itself."""
    method = _TRANSPOSES.get(image.getexif().get(_ORIENTATION_TAG, 1))
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image, container: Container) -> NDArray[np.uint8]:
    """Converted a strip at a time, so that no second whole image is held."""
    if image.mode in ("LAB", "HSV"):
        raise ImageError("unsupported_format", f"colour mode {image.mode}; expected grey, RGB or CMYK")
    convert: Callable[[Image.Image], NDArray[np.uint8]] = _strip_to_rgb
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        convert = _grey_to_rgb(image, container)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        rgb[top : top + strip.height] = convert(strip)
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """First row and pixels of strips of whole rows, about a million pixels each."""
    height = max(1, _STRIP_PIXELS // image.width)
    if height >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _strip_to_rgb(strip: Image.Image) -> NDArray[np.uint8]:
    if strip.has_transparency_data:
        rgba = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba)
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _grey_to_rgb(image: Image.Image, container: Container) -> Callable[[Image.Image], NDArray[np.uint8]]:
    def grey(strip: Image.Image) -> NDArray[np.generic]:
        levels = np.asarray(strip)
        return levels.view(np.uint32) if container.unsigned and strip.mode == "I" else levels

    low, high, strange = math.inf, -math.inf, 0
    for _, strip in _strips(image):
        levels = grey(strip)
        low, high = min(low, float(levels.min())), max(high, float(levels.max()))
        strange += 0 if image.mode != "F" else int(levels.size - np.isfinite(levels).sum())
    if strange:
        raise ImageError("corrupt", f"{strange} of {image.width * image.height} levels are NaN or infinite")
    ends = find_levels(low, high, container.white, whole=image.mode != "F")
    return lambda strip: ends.to_bytes(grey(strip))[:, :, None]


def _one_line(text: str) -> str:
    return " ".join(text.split())
