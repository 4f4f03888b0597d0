"""The one gate that every image passes: bytes in, an RGB array or an `ImageError` out. No torch.

What each kind of file becomes:

- the first frame of an animation; the EXIF orientation is applied, and damaged EXIF is ignored
- 1, L, P, CMYK, YCbCr: Pillow's conversion to RGB
- anything with transparency (LA, RGBA, PA, a transparent colour): laid over `BACKGROUND`
- 16-bit grey: divided by 257 and rounded, so that 65535 becomes 255; mode I is read as 16-bit grey
- floating point grey (mode F): clipped to 0..255 and rounded, NaN is 0
"""

import io
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field

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
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    with Image.open(io.BytesIO(data), formats=(file_format,)) as image:
        _check_size(image.width, image.height, limits)
        if enough is not None:
            image.draft(None, (enough, enough))  # does nothing but to a JPEG
        image.load()
        if file_format == "PNG":
            _check_all_rows(image, data)
        return _to_rgb(_upright(image))


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
        got = f"{file_format} image" if file_format else f"not an image format: starts with {data[:8].hex(' ')}"
        raise ImageError("unsupported_format", f"{got}; expected one of {', '.join(limits.formats)}")
    return file_format


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"{width}x{height} pixels")
    if width * height > limits.max_pixels:
        raise ImageError("too_many_pixels", f"{width}x{height} pixels is above {limits.max_pixels}")
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
    interlaced = data[28] != 0
    last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
    if last_row.any() and not interlaced:
        return
    bits = data[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]
    # The seven passes of Adam7: first column, first row, column step, row step (PNG specification, section 8.2).
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    expected = 0
    for column, row, column_step, row_step in adam7 if interlaced else ((0, 0, 1, 1),):
        columns = -(-(image.width - column) // column_step)
        rows = -(-(image.height - row) // row_step)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * bits + 7) // 8)
    got = _inflated_size(data, expected)
    if got < expected:
        raise ImageError("truncated", f"PNG with {got} of {expected} bytes of pixels")


def _inflated_size(data: bytes, enough: int) -> int:
    """How many bytes the first image of a PNG inflates to, counted up to `enough`, a megabyte at a time."""
    inflater = zlib.decompressobj()
    got = 0
    for chunk in _idat_chunks(data):
        pending = chunk
        while pending and got < enough:
            got += len(inflater.decompress(pending, 1 << 20))
            pending = inflater.unconsumed_tail
    return got + len(inflater.flush())


def _idat_chunks(data: bytes) -> Iterator[bytes]:
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            yield data[position + 8 : position + 8 + length]
        position += 12 + length


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF does not spoil good pixels; Pillow raises many kinds here too
        orientation = None
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64)
        grey = np.nan_to_num(grey, nan=0.0) if image.mode == "F" else grey / 257  # 65535 / 255
        levels = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(levels[:, :, None], 3, axis=2))
    if image.mode in ("LAB", "HSV"):
        raise ImageError("unsupported_format", f"colour mode {image.mode}; expected grey, RGB or CMYK")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba)
    return np.array(image.convert("RGB"))


def _one_line(text: str) -> str:
    return " ".join(text.split())
