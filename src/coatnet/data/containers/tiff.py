"""TIFF: the first picture's own tags in a new directory; all others are left out (TIFF 6.0, BigTIFF).

Values may be shared by thousands of tags and strips by thousands of rows, so their sizes are added up here.
"""

import struct
from typing import NamedTuple

from coatnet.data.containers.container import Container, ContainerError
from coatnet.data.containers.jpeg import MAX_SCANNED_PIXELS

MAX_PIXELS = 50_000_000
MAX_RASTER_BYTES = 120_000_000
"""Samples of all strips or tiles, and of one of them, which the decoder holds whole."""
MAX_SEGMENTS = 100_000
"""Strips or tiles: a strip for each of 65,535 rows is honest."""
_MAX_TAGS = 1_000
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
# Of the picture itself: size, samples, compression, strips, tiles, colours, levels, JPEG tables, orientation.
_KEPT = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, 301, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 340, 341, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532),
)
COMPRESSIONS = {
    **{1: "none", 2: "CCITT", 3: "CCITT G3", 4: "CCITT G4", 5: "LZW", 7: "JPEG", 8: "deflate"},
    **{32773: "PackBits", 32946: "deflate", 50000: "Zstandard"},
}
_JPEG = 7


class _Entry(NamedTuple):
    raw: bytes
    """As it stands in the directory."""
    values: tuple[float, ...]
    num_bytes: int


def read_tiff(data: bytes) -> Container:
    """Give the picture a directory of its own.

    Raises:
        ContainerError: too many or too large strips or tiles, or a compression that is not taken.
    """
    big = data[2:3] == b"+" or data[3:4] == b"+"
    order = "<" if data[:2] == b"II" else ">"
    entries = _entries(data, order, big)
    first = {tag: entry.values[0] for tag, entry in entries.items() if entry.values}
    compression = first.get(259, 1)
    if compression not in COMPRESSIONS:
        names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise ContainerError("unsupported_format", f"TIFF with compression {compression:g}; expected {names}")
    _check_segments(entries, first, len(data))
    if compression == _JPEG:
        _check_scans(first, data.count(b"\xff\xda"))
    white = first.get(341, first.get(281))
    bits = int(first.get(258, 1))
    return Container(
        _with_directory(data, order, big, [entry.raw for entry in entries.values()]),
        MAX_PIXELS,
        white=int(white) if white and white == white and 0 < white < 1 << 32 and bits > 8 else None,
        unsigned=first.get(339, 1) == 1 and bits == 32,
    )


def _entries(data: bytes, order: str, big: bool) -> dict[int, _Entry]:
    """The tags that are kept, by number."""
    start, count_form, entry_form = (8, "Q", "HHQ") if big else (4, "H", "HHI")
    offset = _number(data, start, order + ("Q" if big else "I"))
    num_tags = _number(data, offset, order + count_form)
    if num_tags > _MAX_TAGS:
        raise ContainerError("corrupt", f"TIFF with {num_tags} tags; at most {_MAX_TAGS} are read")
    entries: dict[int, _Entry] = {}
    room, size = (8, 20) if big else (4, 12)
    position = offset + struct.calcsize(order + count_form)
    for place in range(position, position + num_tags * size, size):
        raw = data[place : place + size]
        if len(raw) < size:
            break
        tag, kind, count = struct.unpack_from(order + entry_form, raw)
        if tag in _KEPT:
            num_bytes = count * _SIZES.get(kind, 1)
            at = place + size - room if num_bytes <= room else _number(raw, size - room, order + ("Q" if big else "I"))
            if num_bytes > 8 * MAX_SEGMENTS + len(data) // 8:
                raise ContainerError("corrupt", f"TIFF with {num_bytes} bytes in tag {tag}")
            form = order + str(count) + _NUMBERS[kind] if kind in _NUMBERS else ""
            whole = form and at + num_bytes <= len(data) and count <= MAX_SEGMENTS
            entries[tag] = _Entry(raw, struct.unpack_from(form, data, at) if whole else (), num_bytes)
    return entries


def _number(data: bytes, start: int, form: str) -> int:
    """One number; 0 beyond the end of the file."""
    return int(struct.unpack_from(form, data, start)[0]) if start + struct.calcsize(form) <= len(data) else 0


def _check_segments(entries: dict[int, _Entry], first: dict[int, float], file_size: int) -> None:
    """Refuse strips or tiles whose samples or bytes are more than a picture and a file can have."""
    width, height = int(first.get(256, 0)), int(first.get(257, 0))
    samples, bits = int(first.get(277, 1)), int(first.get(258, 1))
    tile_width = int(first.get(322, width)) or width
    tile_height = int(first.get(323, min(int(first.get(278, height)) or height, height))) or height
    if not (width and height and tile_width and tile_height):
        return  # the decoder says what is missing
    num = -(-width // tile_width) * -(-height // tile_height)
    raster = num * tile_width * tile_height * samples * bits // 8
    if raster > MAX_RASTER_BYTES:
        detail = f"TIFF with {raster} bytes in its strips or tiles is above {MAX_RASTER_BYTES}"
        raise ContainerError("too_many_pixels", detail)
    counts = entries.get(325, entries.get(279, _Entry(b"", (), 0)))
    num = max(num, len(counts.values), counts.num_bytes // 8)
    if num > MAX_SEGMENTS:
        raise ContainerError("corrupt", f"TIFF with {num} strips or tiles is above {MAX_SEGMENTS}")
    if num > 1 and sum(counts.values) > 2 * file_size:
        raise ContainerError("corrupt", f"TIFF whose strips share bytes: {sum(counts.values):.0f} in {file_size}")


def _check_scans(first: dict[int, float], num_scans: int) -> None:
    """Refuse JPEG data with many progressive scans, each of which visits every pixel of its strip or tile."""
    width, height = first.get(256, 0), first.get(257, 0)
    scanned = num_scans * first.get(322, width) * first.get(323, min(first.get(278, height), height))
    if scanned > MAX_SCANNED_PIXELS:
        raise ContainerError("corrupt", f"TIFF with {num_scans} JPEG scans of {scanned:.0f} pixels in all")


def _with_directory(data: bytes, order: str, big: bool, entries: list[bytes]) -> bytes:
    """The same file whose first and only directory holds these entries, behind everything else."""
    start = len(data) + len(data) % 2
    if big:
        head = data[:8] + struct.pack(order + "Q", start)
        directory = struct.pack(order + "Q", len(entries)) + b"".join(entries) + bytes(8)
    else:
        head = data[:4] + struct.pack(order + "I", start)
        directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return head + data[len(head) :] + bytes(len(data) % 2) + directory
