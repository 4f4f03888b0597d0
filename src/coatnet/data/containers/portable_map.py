"""PBM, PGM and PPM as binary maps of 8 or 16 bits: Pillow reads other levels and text number by number in Python.

See netpbm's pages pbm(5), pgm(5) and ppm(5).
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coatnet.data.containers.container import Container, ContainerError

MAX_PIXELS = 50_000_000
_COMMENT = rb"#[^\r\n]*[\r\n]"
_BETWEEN = rb"(?:\s|" + _COMMENT + rb")+"
_HEADER = {
    count: re.compile(rb"P[1-6]" + (_BETWEEN + rb"(\d{1,10})") * count + rb"(?:\s|" + _COMMENT + rb")")
    for count in (2, 3)
}
_LONGEST_HEADER = 1 << 16


def read_portable_map(data: bytes) -> Container:
    """Turn text and odd levels into bytes.

    Raises:
        ContainerError: the header is damaged, or there are fewer numbers than pixels.
    """
    kind = data[1] - ord("0")
    bitmap, text, channels = kind in (1, 4), kind <= 3, 3 if kind in (3, 6) else 1
    match = _HEADER[2 if bitmap else 3].match(data[:_LONGEST_HEADER])
    if match is None:
        raise ContainerError("corrupt", "PPM cannot be decoded: its header is damaged")
    width, height, maxval = int(match[1]), int(match[2]), 1 if bitmap else int(match[3])
    if not 0 < maxval < 65536:
        raise ContainerError("corrupt", f"PPM with maxval {maxval}; expected 1 to 65535")
    if width * height > MAX_PIXELS or (not text and (bitmap or maxval in (255, 65535))):
        return Container(data, MAX_PIXELS)  # Pillow reads these as they are
    body = data[match.end() :]
    num = width * height * channels
    levels = _numbers(body, num, bitmap) if text else _binary(body, num, maxval)
    if len(levels) < num:
        raise ContainerError("truncated", f"PPM with {len(levels)} of {num} levels")
    if levels.max(initial=0) > maxval:
        raise ContainerError("corrupt", f"PPM with a level of {levels.max()}, above its maxval {maxval}")
    if bitmap:
        levels = 1 - levels  # 1 is black
    return _written(levels, width, height, channels, maxval)


def _numbers(body: bytes, num: int, bitmap: bool) -> NDArray[Any]:
    """Up to `num` numbers written as text; fewer if something else is among them."""
    body = re.sub(_COMMENT, b"\n", body)
    if bitmap:  # digits need no blank between them
        digits = np.frombuffer(b"".join(body.split())[:num], np.uint8)
        return digits - ord("0") if np.isin(digits, (48, 49)).all() else digits[:0]
    if stray := re.search(rb"[^\d\s]", body):
        body = body[: stray.start()]
    numbers: NDArray[Any] = np.fromstring(body.decode("ascii"), np.int64, sep=" ")
    return numbers[:num]


def _binary(body: bytes, num: int, maxval: int) -> NDArray[Any]:
    kind = np.dtype(">u2") if maxval > 255 else np.dtype(np.uint8)
    return np.frombuffer(body[: len(body) // kind.itemsize * kind.itemsize], kind)[:num]


def _written(levels: NDArray[Any], width: int, height: int, channels: int, maxval: int) -> Container:
    """Grey of more than 8 bits keeps its levels, and is told its white; all else becomes 0 to 255."""
    if channels == 1 and maxval > 255:
        head = b"P5 %d %d 65535\n" % (width, height)
        return Container(head + levels.astype(">u2").tobytes(), MAX_PIXELS, white=maxval if maxval < 65535 else None)
    scaled = np.rint(np.arange(maxval + 1) * 255 / maxval).astype(np.uint8)[levels]
    head = b"P%d %d %d 255\n" % (6 if channels == 3 else 5, width, height)
    return Container(head + scaled.tobytes(), MAX_PIXELS)
