"""JPEG: tables, frame and scans; all other segments are left out (ITU-T T.81, annex B)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from coatnet.data.containers.container import Container, ContainerError
from coatnet.data.containers.orientation import orientation

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END = b"\xff\xd9"
_FILLERS = (0x00, 0x5B, 0xA7, 0xE9)  # they begin with each pair of bits
_SCAN = 0xDA
_BARE = (*range(0xD0, 0xD9), 0x01)  # markers without a segment
# Tables, restart interval, number of lines; JFIF and Adobe say how colours are coded.
_KEPT = (0xC4, 0xDB, 0xDD, 0xDC, 0xE0, 0xEE)
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman coded
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
MAX_SEGMENTS = 2_000
"""Extended XMP and profiles of 20 MB in segments of 64 kB are 300."""
MAX_SCANS = 100
"""Encoders write 10, optimizers up to 20; libtiff's limit is 100 too."""
MAX_PIXELS = 50_000_000
MAX_PROGRESSIVE_PIXELS = 25_000_000
"""Coefficients of all components are held: 6 more bytes a pixel."""
MAX_SCANNED_PIXELS = 400_000_000
"""Scans times pixels: each scan visits every block, even if it changes none."""


class _Frame(NamedTuple):
    width: int
    height: int
    sampling: dict[int, tuple[int, int]]


class _Walk:
    """One pass over the segments of a file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.kept = [b"\xff\xd8"]
        self.exif = self.xmp = b""
        self.frame: _Frame | None = None
        self.progressive = self.complete_end = False
        self.restart_interval = self.num_scans = 0
        self.last_scan: tuple[bytes, bytes] = b"", b""
        self.coded: set[tuple[int, int]] = set()
        self._read()

    def _read(self) -> None:
        position, num_segments = 2, 0
        while match := _MARKER.search(self.data, position):
            code, position = match[1][0], match.end()
            if code == 0xD9:
                self.complete_end = True
                return
            if code in _BARE:
                continue
            num_segments += 1
            if num_segments > MAX_SEGMENTS:
                raise ContainerError("corrupt", f"JPEG with more than {MAX_SEGMENTS} segments")
            end = position + int.from_bytes(self.data[position : position + 2], "big")
            content = self.data[position + 2 : end]
            if code == _SCAN:
                end = self._scan(position, end, content)
            elif code in _FRAMES:
                self._frame(code, content)
            elif code in _OTHER_FRAMES:
                raise ContainerError(
                    "unsupported_format", "JPEG with lossless or arithmetic coding; expected Huffman coding"
                )
            self._note(code, content)
            if code in _KEPT or code in _FRAMES or code == _SCAN:
                self.kept.append(b"\xff" + bytes([code]) + self.data[position:end])
            position = end

    def _note(self, code: int, content: bytes) -> None:
        if code == 0xE1 and content.startswith(b"Exif\0\0"):
            self.exif = self.exif or content
        elif code == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            self.xmp = self.xmp or content
        elif code == 0xDD:
            self.restart_interval = int.from_bytes(content[:2], "big")

    def _scan(self, start: int, end: int, content: bytes) -> int:
        """Where the data of a scan ends."""
        self.num_scans += 1
        if self.num_scans > MAX_SCANS:
            raise ContainerError("corrupt", f"JPEG with more than {MAX_SCANS} scans")
        following = _AFTER_SCAN.search(self.data, end)
        scan_end = following.start() if following else len(self.data)
        self.last_scan = content, self.data[end:scan_end]
        num = content[0] if content else 0
        if len(content) >= 4 + 2 * num and content[3 + 2 * num] & 15 == 0:  # to the last bit
            coefficients = range(content[1 + 2 * num], min(content[2 + 2 * num], 63) + 1)
            self.coded.update((content[1 + 2 * i], k) for i in range(min(num, 4)) for k in coefficients)
        return scan_end

    def _frame(self, code: int, content: bytes) -> None:
        self.progressive = code == 0xC2
        if len(content) >= 6 and len(content) >= 6 + 3 * content[5]:
            parts = [content[6 + 3 * i : 9 + 3 * i] for i in range(content[5])]
            sampling = {part[0]: (max(part[1] >> 4, 1), max(part[1] & 15, 1)) for part in parts}
            height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            self.frame = _Frame(width, height, sampling)


def read_jpeg(data: bytes) -> Container:
    """Leave out what no pixel needs.

    Raises:
        ContainerError: too many segments or scans, or a coding that is not taken.
    """
    walk = _Walk(data)
    buffered = walk.progressive or walk.num_scans > 1
    limit = MAX_PROGRESSIVE_PIXELS if buffered else MAX_PIXELS
    ends_early = not walk.complete_end and _has_every_scan(walk)
    if ends_early:
        limit //= len(_FILLERS)  # it is decoded with each
    return Container(
        b"".join(walk.kept) + (_END if walk.complete_end else b""),
        min(limit, MAX_SCANNED_PIXELS // max(walk.num_scans, 1)),
        orientation(walk.exif, walk.xmp),
        ends_early=ends_early,
    )


def endings(data: bytes) -> Iterator[bytes]:
    """A file that lacks its end marker, ended in several ways.

    A decoder that still needs bits takes them from what is put before the marker, so that they come out different;
    one that has every block ignores it.
    """
    cut = data[:-1] if data.endswith(b"\xff") else data  # the first half of the marker
    for filler in _FILLERS:
        yield cut + bytes([filler]) * 64 + _END


def _has_every_scan(walk: _Walk) -> bool:
    """Whether every coefficient of every component came to its last bit, and the last scan has all its intervals."""
    if walk.frame is None:
        return False
    needed = {(component, k) for component in walk.frame.sampling for k in range(64)}
    return needed <= walk.coded and _has_every_interval(walk, walk.frame)


def _has_every_interval(walk: _Walk, frame: _Frame) -> bool:
    """Whether the restart markers of the last scan are all there: a decoder fills lost intervals with grey."""
    if walk.restart_interval == 0:
        return True
    content, body = walk.last_scan
    across, down = (max(each[axis] for each in frame.sampling.values()) for axis in (0, 1))
    width, height = 8 * across, 8 * down
    if content[0] == 1:  # blocks of one component, whatever its share
        ours = frame.sampling.get(content[1], (across, down))
        width, height = width // ours[0], height // ours[1]
    units = -(-frame.width // width) * -(-frame.height // height)
    return len(_RESTART.findall(body)) >= -(-units // walk.restart_interval) - 1
