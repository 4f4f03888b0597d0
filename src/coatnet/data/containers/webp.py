"""WebP: the picture or the first frame; profiles, metadata and further frames are left out (RFC 9649)."""

import struct
from collections.abc import Iterator

from coatnet.data.containers.container import Container, ContainerError
from coatnet.data.containers.orientation import orientation

MAX_PIXELS = 20_000_000
"""The decoder holds a frame, two canvases and two copies, all RGBA: 20 bytes a pixel."""
MAX_CHUNKS = 10_000
_PICTURE = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"VP8X", b"ANMF")
_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # profile, EXIF, XMP


def read_webp(data: bytes) -> Container:
    """Leave out what no pixel of the first frame needs.

    Raises:
        ContainerError: too many chunks.
    """
    kept: list[bytes] = []
    seen: dict[bytes, bytes] = {}
    for num_chunks, (kind, whole) in enumerate(_chunks(data)):
        if num_chunks >= MAX_CHUNKS:
            raise ContainerError("corrupt", f"WebP with more than {MAX_CHUNKS} chunks")
        if kind not in seen:
            seen[kind] = whole[8:]
            if kind == b"VP8X" and len(whole) > 8:
                kept.append(whole[:8] + bytes([whole[8] & ~_METADATA_FLAGS]) + whole[9:])
            elif kind in _PICTURE:
                kept.append(whole)
    body = b"WEBP" + b"".join(kept)
    told = orientation(seen.get(b"EXIF", b""), seen.get(b"XMP ", b""))
    return Container(b"RIFF" + struct.pack("<I", len(body)) + body, MAX_PIXELS, told)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and whole of each chunk; EXIF and XMP come after the frames of an animation."""
    position = 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + size + size % 2
        yield data[position : position + 4], data[position:end]
        position = end
