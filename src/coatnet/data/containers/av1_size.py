"""The largest picture that the AV1 data of an AVIF declares, whatever its boxes tell of.

A decoder makes room for the size in the data's own sequence headers (AV1 specification, section 5.5) before it is
compared with that of the boxes (ISO/IEC 14496-12).
"""

from collections.abc import Iterator

_SEQUENCE_HEADER = 1
_MOST_ITEMS = 1_000
_MOST_UNITS = 10_000
_LONGEST_HEADER = 1_000


def largest_picture(data: bytes, meta: bytes, tracks: bytes) -> int:
    """Pixels of the largest sequence header.

    Args:
        data: the whole file.
        meta: the content of its box of items, may be empty.
        tracks: the content of its box of tracks, empty if it has no frames in time.

    Raises:
        ValueError: the boxes are damaged, or tell of more than a picture needs.
    """
    try:
        payloads = [*_items(data, meta), *_chunks(data, tracks)]
        return max((pixels for payload in payloads for pixels in _pictures(payload)), default=0)
    except IndexError:
        raise ValueError("its boxes end early") from None


def _number(data: bytes, start: int, size: int) -> int:
    if start + size > len(data):
        raise IndexError
    return int.from_bytes(data[start : start + size], "big")


def boxes(data: bytes, start: int = 0) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind, start, start of the content and end of each box."""
    while start + 8 <= len(data):
        size, kind, content = _number(data, start, 4), data[start + 4 : start + 8], start + 8
        if size == 1 and start + 16 <= len(data):  # a size of 64 bits follows
            size, content = _number(data, start + 8, 8), start + 16
        end = min(start + max(size, content - start), len(data)) if size else len(data)
        yield kind, start, content, end
        start = end


def _items(data: bytes, meta: bytes) -> Iterator[bytes]:
    """The bytes of each item by the box `iloc` (section 8.11.3)."""
    inner = {kind: content for kind, _, content, _ in boxes(meta, 4)}  # behind version and flags
    if b"iloc" not in inner:
        return
    start, in_meta = inner[b"iloc"], inner.get(b"idat", len(meta))
    version = meta[start]
    sizes = _number(meta, start + 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    num_items, place = _number(meta, start + 6, wide), start + 6 + wide
    if num_items > _MOST_ITEMS:
        raise ValueError(f"{num_items} items")
    for _ in range(num_items):
        place += wide
        inside = version > 0 and _number(meta, place, 2) & 15 == 1
        place += (2 if version else 0) + 2
        base, place = _number(meta, place, base_size), place + base_size
        num_extents, place = _number(meta, place, 2), place + 2
        if num_extents > _MOST_ITEMS:
            raise ValueError(f"{num_extents} extents")
        parts, whole = [], meta[in_meta:] if inside else data
        for _ in range(num_extents):
            place += index_size
            offset, place = base + _number(meta, place, offset_size), place + offset_size
            length, place = _number(meta, place, length_size), place + length_size
            parts.append(whole[offset : offset + length] if length else whole[offset:])
        if sum(map(len, parts)) > len(data):
            raise ValueError("its extents share bytes")
        yield b"".join(parts)


def _chunks(data: bytes, tracks: bytes) -> Iterator[bytes]:
    """What follows each first chunk of a track by the boxes `stco` and `co64` (section 8.7.5)."""
    for name, size in ((b"stco", 4), (b"co64", 8)):
        start = tracks.find(name)
        while start >= 0:
            if _number(tracks, start + 8, 4):
                yield data[_number(tracks, start + 12, size) :]
            start = tracks.find(name, start + 4)


def _pictures(payload: bytes) -> Iterator[int]:
    """Pixels by each sequence header among the units of AV1 data; other data has none."""
    place = 0
    for _ in range(_MOST_UNITS):
        if place >= len(payload) or payload[place] & 0x81:  # bits that are always zero
            return
        kind, extended, sized = payload[place] >> 3 & 15, payload[place] & 4, payload[place] & 2
        place += 2 if extended else 1
        size, place = _leb128(payload, place) if sized else (len(payload) - place, place)
        if kind == _SEQUENCE_HEADER:
            yield _picture(payload[place : place + size])
        place += size


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for number in range(8):
        if place >= len(data):
            break
        value |= (data[place] & 127) << (7 * number)
        place += 1
        if data[place - 1] < 128:
            break
    return value, place


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data[:_LONGEST_HEADER], "big"), 8 * len(data[:_LONGEST_HEADER])

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise IndexError
        return self.value >> self.left & ((1 << count) - 1)


def _picture(header: bytes) -> int:
    """Pixels of one sequence header, section 5.5.1."""
    bits = _Bits(header)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # the short header of still pictures
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_length = 0
    if bits.take(1):  # timing, section 5.5.3
        bits.take(64)
        if bits.take(1):
            _skip_variable_length(bits)
        if bits.take(1):  # decoder model, section 5.5.4
            delay_length = bits.take(5) + 1
            bits.take(42)
    display_delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:  # levels that have tiers
            bits.take(1)
        if delay_length and bits.take(1):
            bits.take(2 * delay_length + 1)
        if display_delays and bits.take(1):
            bits.take(4)


def _skip_variable_length(bits: _Bits) -> None:
    """Section 4.10.3: as many bits as there were zeros before a one."""
    num_zeros = 0
    while not bits.take(1):
        num_zeros += 1
    bits.take(num_zeros if num_zeros < 32 else 0)
