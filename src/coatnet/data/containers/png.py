"""PNG: header, palette, transparency and rows; all other chunks are left out (PNG specification, third edition)."""

import struct
import zlib
from collections.abc import Iterator, Sequence

from coatnet.data.containers.container import Container, ContainerError
from coatnet.data.containers.orientation import orientation

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> channels, section 11.2.1
# The seven passes of Adam7: first column, first row, column step, row step (section 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
MAX_CHUNKS = 20_000
"""An honest file of 20 MB has one chunk per 8 kB, which is 2,500."""
MAX_ROW_BYTES = 160_000_000
"""Rows that are inflated and unfiltered in 2 s, twice inflated where the last row is black."""
_LONGEST_TEXT = 1 << 20
_PIECE = 1 << 16
# Below this size even a stream that holds nothing but tables is read in half a second.
_QUICK = 4_000_000


def read_png(data: bytes) -> Container:
    """Leave out what no pixel needs.

    Raises:
        ContainerError: too many chunks, or compressed rows larger than rows can be.
    """
    kept, told = [_SIGNATURE], dict[bytes, bytes]()
    for num_chunks, (kind, start, end) in enumerate(_chunks(data)):
        if num_chunks >= MAX_CHUNKS:
            raise ContainerError("corrupt", f"PNG with more than {MAX_CHUNKS} chunks")
        if kind in _KEPT or end > len(data):  # the decoder says of the latter that it is truncated
            kept.append(data[start:end])
        elif kind in (b"eXIf", b"sBIT"):
            told.setdefault(kind, data[start + 8 : end - 4])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            told.update(_text(kind, data[start + 8 : min(end - 4, start + 8 + _LONGEST_TEXT)], told))
    exif = told.get(b"eXIf") or _hexadecimal(told.get(b"Raw profile type exif", b""))
    clean = b"".join(kept)
    _check_packed(clean)
    return Container(
        clean,
        _max_pixels(clean),
        orientation(exif, told.get(b"XML:com.adobe.xmp", b"")),
        white=_white(clean, told.get(b"sBIT", b"")),
    )


def rows_missing(data: bytes) -> str:
    """Which bytes of pixels a PNG lacks, in words; empty if none. The rows are inflated once more, and no further."""
    expected = _row_bytes(data)
    inflater, got = zlib.decompressobj(), 0
    for pending in _packed(data):
        while pending and got < expected and not inflater.eof:
            got += len(inflater.decompress(pending, min(1 << 20, expected - got)))
            pending = inflater.unconsumed_tail
    return f"PNG with {got} of {expected} bytes of pixels" if got < expected else ""


def is_interlaced(data: bytes) -> bool:
    """Whether rows come in seven passes."""
    return data[28] != 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk, up to the last; the end may lie beyond that of the file."""
    position = len(_SIGNATURE)
    while position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end


def _header(data: bytes) -> tuple[int, int, int]:
    """Width, height and bits a pixel; zeros if the header is damaged, which the decoder then says."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return 0, 0, 0
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    return width, height, depth * _CHANNELS.get(color, 0)


def _passes(data: bytes) -> Sequence[tuple[int, int, int, int]]:
    return _ADAM7 if is_interlaced(data) else ((0, 0, 1, 1),)


def _row_bytes(data: bytes) -> int:
    """Bytes of all rows with their filter bytes."""
    width, height, bits = _header(data)
    total = 0
    for column, row, column_step, row_step in _passes(data):
        columns, rows = -(-(width - column) // column_step), -(-(height - row) // row_step)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _max_pixels(data: bytes) -> int:
    _, _, bits = _header(data)
    return MAX_ROW_BYTES * 8 // max(bits, 24)


def _packed(data: bytes) -> Iterator[bytes]:
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            yield data[start + 8 : end - 4]


def _check_packed(data: bytes) -> None:
    """Refuse compressed rows that are larger than the rows: they hold empty blocks, which cost time and give nothing.

    The longest that an encoder writes are fixed codes: 9 bits for a byte.
    """
    size = sum(len(packed) for packed in _packed(data))
    if size <= _QUICK or not _header(data)[0]:
        return
    refusal = ContainerError("corrupt", f"PNG with {size} compressed bytes for {_row_bytes(data)} bytes of pixels")
    if size > 1.5 * _row_bytes(data) + _PIECE:
        raise refusal
    inflater, taken, got = zlib.decompressobj(), 0, 0
    for packed in _packed(data):
        for start in range(0, len(packed), _PIECE):
            piece = packed[start : start + _PIECE]
            taken += len(piece)
            while piece and not inflater.eof and got <= MAX_ROW_BYTES:
                got += len(inflater.decompress(piece, 1 << 20))
                piece = inflater.unconsumed_tail
            if inflater.eof or got > MAX_ROW_BYTES:
                return
            if taken > _QUICK and got < taken / 2:
                raise refusal


def _text(kind: bytes, content: bytes, told: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """A text by its keyword, if an orientation may be in it; up to a megabyte of it is inflated."""
    keyword, _, rest = content.partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"XML:com.adobe.xmp") or keyword in told:
        return {}
    packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    text = rest[1:] if kind == b"zTXt" else rest
    if kind == b"iTXt":  # flag, method, language, translated keyword, text
        text = b"\0".join(rest[2:].split(b"\0", 2)[2:])
    try:
        return {keyword: zlib.decompressobj().decompress(text, _LONGEST_TEXT) if packed else text}
    except zlib.error:
        return {}


def _hexadecimal(profile: bytes) -> bytes:
    """ImageMagick's way to keep a block as text: an empty line, its name, its length, then hexadecimal digits."""
    try:
        return bytes.fromhex("".join(profile.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _white(data: bytes, significant_bits: bytes) -> int | None:
    """White of a grey image whose sBIT says that of 16 bits fewer are used.

    The specification has samples scaled up to all bits (section 13.12), which then need nothing. Writers that
    leave them as they were are known by levels that never exceed the bits told; that is seen once decoded.
    """
    if len(data) > 25 and data[24] == 16 and data[25] == 0 and len(significant_bits) == 1:
        return (1 << min(significant_bits[0], 16)) - 1
    return None
