"""AVIF: all boxes but EXIF, which the plug-in would parse for an orientation that the format has elsewhere."""

from coatnet.data.containers.av1_size import boxes, largest_picture
from coatnet.data.containers.container import Container, ContainerError

MAX_PIXELS = 20_000_000
MAX_META_BYTES = 1_000_000
"""Boxes that list the items of a picture; that of a photograph in 50 tiles has 5 kB."""


def read_avif(data: bytes) -> Container:
    """Hide EXIF.

    Raises:
        ContainerError: the boxes that list items are too large, or the coded picture is.
    """
    found: dict[bytes, bytes] = {}
    whole = data
    for kind, start, content, end in boxes(whole):
        if kind not in (b"meta", b"moov"):
            continue
        if end - start > MAX_META_BYTES:
            raise ContainerError("corrupt", f"AVIF with {end - start} bytes of {kind.decode()} boxes")
        if kind in found:
            raise ContainerError("corrupt", f"AVIF with several {kind.decode()} boxes")
        found[kind] = whole[content:end]
        if kind == b"meta":
            data = data[:start] + data[start:end].replace(b"Exif", b"skip") + data[end:]
    try:
        pixels = largest_picture(data, found.get(b"meta", b""), found.get(b"moov", b""))
    except ValueError as error:
        raise ContainerError("corrupt", f"AVIF cannot be decoded: {error}") from error
    if pixels > MAX_PIXELS:
        raise ContainerError("too_many_pixels", f"AVIF with a coded picture of {pixels} pixels is above {MAX_PIXELS}")
    return Container(data, MAX_PIXELS)
