"""GIF: the palette and the first picture; comments, applications and further frames are left out (GIF89a)."""

from coatnet.data.containers.container import Container, ContainerError

MAX_PIXELS = 50_000_000
MAX_BLOCKS = 200_000
"""Before the end of the first picture: blocks of 255 bytes are 78,000 in 20 MB."""


def read_gif(data: bytes) -> Container:
    """Leave out what no pixel of the first picture needs.

    Raises:
        ContainerError: too many blocks.
    """
    position = 13 + _palette(data[10:11])
    kept, num_blocks = [data[:position]], 0
    while position < len(data):
        start, kind = position, data[position : position + 1]
        if kind == b",":
            position += 10 + _palette(data[position + 9 : position + 10]) + 1  # the size of the first codes
        elif kind == b"!":
            position += 2
        else:
            position += 1
            continue
        while position < len(data) and data[position]:
            position += 1 + data[position]
            num_blocks += 1
            if num_blocks > MAX_BLOCKS:
                raise ContainerError("corrupt", f"GIF with more than {MAX_BLOCKS} blocks before its first picture ends")
        position += 1
        if kind == b"," or data[start + 1 : start + 2] == b"\xf9":  # a picture, or what tells of its transparency
            kept.append(data[start:position])
        if kind == b",":
            kept.append(b";" if position <= len(data) else b"")
            break
    return Container(b"".join(kept), MAX_PIXELS)


def _palette(flags: bytes) -> int:
    """Bytes of the palette that a packed field tells of."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
