"""AVIF: all boxes but EXIF, which the plug-in would parse for an orientation that the format has elsewhere."""

from coatnet.data.containers.container import Container, ContainerError

MAX_PIXELS = 20_000_000
MAX_META_BYTES = 1_000_000
"""Boxes that list the items of a picture; that of a photograph in 50 tiles has 5 kB."""


def read_avif(data: bytes) -> Container:
    """Hide EXIF.

    Raises:
        ContainerError: the boxes that list items are too large.
    """
    position = 0
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if size == 1:  # a size of 64 bits follows
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        end = position + max(size, 8) if size else len(data)
        if kind in (b"meta", b"moov") and end - position > MAX_META_BYTES:
            raise ContainerError("corrupt", f"AVIF with {end - position} bytes of {kind.decode()} boxes")
        if kind == b"meta":
            data = data[:position] + data[position:end].replace(b"Exif", b"skip") + data[end:]
        position = end
    return Container(data, MAX_PIXELS)
