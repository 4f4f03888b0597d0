"""How long images made to exhaust memory or time take to be refused, and what they take of memory.

python benchmarks/bombs.py
"""

import resource
import struct
import time
import zlib

from coatnet.data.images import ImageError, decode


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that claims a size and brings `body` as its compressed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    packed = zlib.compress(b"\0" * 200_000_000)
    data = b"Comment\0\0" + packed
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return png(8, 8, chunk)


BOMBS = {
    "1 x 178,000,000 pixels": png(1, 178_000_000),
    "60,000 x 60,000 pixels": png(60_000, 60_000),
    "2^31 - 1 pixels wide": png(2**31 - 1, 1),
    "0 x 0 pixels": png(0, 0),
    "200 MB of compressed text": text_bomb(),
    "GIF of 60,000 x 60,000": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\0\0\0,",
    "30 MB of zeros": bytes(30_000_000),
}


def main() -> None:
    decode(png_of_one_pixel())
    for name, data in BOMBS.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        try:
            decode(data)
            outcome = "ACCEPTED"
        except ImageError as error:
            outcome = error.code
        took = (time.perf_counter() - started) * 1e3
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{name}: {outcome} in {took:.1f} ms, {grown:.1f} MiB more")


def png_of_one_pixel() -> bytes:
    """So that Pillow's decoders are loaded before anything is timed."""
    rows = zlib.compress(b"\0\0\0\0")
    chunk = struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
    return png(1, 1, chunk)


if __name__ == "__main__":
    main()
