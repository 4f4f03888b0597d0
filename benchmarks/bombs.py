"""Measure what the image gate spends on hostile files and on the largest honest image of each format.

python benchmarks/bombs.py [NAME ...]

Every file is decoded in a process of its own, which reports the peak of its resident memory and its processor time.
Both are those of decoding alone: the file is made in another process, and imports are subtracted from the time.
"""

import io
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from coatnet.data.images import ImageError, decode

LONGEST = 20
"""Seconds after which a decode is ended."""
FILE_LIMIT = 20_000_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, before: bytes = b"", kind: tuple[int, int] = (8, 2)) -> bytes:
    """A PNG that claims a size and brings `packed` as its compressed rows; `kind` is bit depth and colour type."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def interlaced_png(width: int, height: int) -> bytes:
    """Seven passes of rows, each filtered by Paeth's predictor, the slowest."""
    packer, parts = zlib.compressobj(1), []
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for left, top, across, down in passes:
        row = b"\4" + bytes(3 * -(-(width - left) // across))
        parts += [packer.compress(row) for _ in range(-(-(height - top) // down))]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    packed = b"".join(parts) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def zeros(num_bytes: int) -> bytes:
    """Compressed zeros; a thousandth of their size."""
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packer.compress(piece) for _ in range(num_bytes >> 20)) + packer.flush()


def good_rows() -> bytes:
    return zlib.compress(bytes(32 * (1 + 32 * 3)))


def empty_blocks(num_bytes: int) -> bytes:
    """A deflate stream of dynamic blocks that hold nothing, each of 11 bytes and with tables to build."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> place & 1 for place in range(count))

    for _ in range(8):
        put(0b100, 3)  # not the last, dynamic
        put(0, 5)
        put(0, 5)
        put(14, 4)
        for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
            put(int(symbol in (18, 1)), 3)
        for zeros_in_turn in (138, 118):
            put(1, 1)
            put(zeros_in_turn - 11, 7)
        put(0, 3)  # lengths of the end and of one distance, the end itself
    eight = bytes(sum(bit << place for place, bit in enumerate(bits[k : k + 8])) for k in range(0, len(bits), 8))
    return b"\x78\xda" + eight * (num_bytes // len(eight))


def scene(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Smooth shapes with some noise, about as hard to compress as a photograph."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (height // 64 + 2, width // 64 + 2, channels), np.uint8)
    planes = [np.asarray(Image.fromarray(small[:, :, c]).resize((width, height), 2)) for c in range(channels)]
    image = np.stack(planes, 2)
    image += generator.integers(0, 4, image.shape, np.uint8)
    return image


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def small_scans() -> bytes:
    """Three thousand scans of 12 megapixels in a file of some 100 kB."""
    data = saved(Image.new("RGB", (4000, 3000), (90, 80, 70)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * 3000 + b"\xff\xd9"


def few_large_scans(width: int, height: int, num_scans: int) -> bytes:
    data = saved(Image.new("RGB", (width, height), (90, 80, 70)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * (num_scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def first_scan_only(width: int, height: int) -> bytes:
    """A progressive JPEG of which the decoder has to smooth each block."""
    data = saved(Image.fromarray(scene(width, height)), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    return data[: data.index(b"\xff\xda", first + 2)] + b"\xff\xd9"


def hidden_size_avif() -> bytes:
    """An AVIF whose boxes tell of 16x16 pixels, and whose coded picture has 144 million."""
    data = saved(Image.new("RGB", (12_000, 12_000), (90, 80, 70)), "AVIF", speed=10)
    return data.replace(struct.pack(">II", 12_000, 12_000), struct.pack(">II", 16, 16))


def many_segments(marker: int, content: bytes) -> bytes:
    data = saved(Image.new("RGB", (32, 32)), "JPEG")
    one = struct.pack(">BBH", 255, marker, len(content) + 2) + content
    return data[:2] + one * (FILE_LIMIT // len(one) - 100) + data[2:]


def tags(num: int, size: int, start: int) -> bytes:
    """An EXIF block or TIFF directory whose tags all hold the same `size` bytes."""
    entries = b"".join(struct.pack("<HHII", 0x8000 + i % 30000, 7, size, start) for i in range(num))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", num) + entries + bytes(4)


def exif_png() -> bytes:
    return png(32, 32, good_rows(), chunk(b"eXIf", tags(5000, 10_000_000, 70_000) + bytes(10_070_000)))


def gif_comments() -> bytes:
    data = saved(Image.new("L", (32, 32)), "GIF")
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * (FILE_LIMIT // 256 - 1000) + b"\0"
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1) * (data[10] >> 7)
    return data[:place] + comment + data[place:]


def gif_tiny_blocks() -> bytes:
    data = saved(Image.new("L", (32, 32)), "GIF")
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1) * (data[10] >> 7)
    return data[:place] + b"!\xfe" + b"\x01 " * (FILE_LIMIT // 2 - 1000) + b"\0" + data[place:]


def rle_bmp_of(body: bytes, side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 54 + 1024
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + bytes(1024) + body


def huge_tile() -> bytes:
    """A TIFF of 16x16 pixels in one tile of 40,000 x 40,000."""
    fields = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, 40_000), (323, 40_000)]
    packed = zeros(1 << 26)
    place = 8 + 2 + 12 * (len(fields) + 2) + 4
    fields += [(324, place), (325, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + bytes(4) + packed


def animated(file_format: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (64, 64), (i % 256, i // 256, 99)) for i in range(frames)]
    return saved(pictures[0], file_format, save_all=True, append_images=pictures[1:])


def photograph(width: int, height: int, file_format: str, mode: str = "RGB", **options: object) -> Callable[[], bytes]:
    return lambda: saved(Image.fromarray(scene(width, height)).convert(mode), file_format, **options)


def raw_png(width: int, height: int, depth: int, color: int, channels: int) -> Callable[[], bytes]:
    def make() -> bytes:
        row = np.repeat(np.arange(width) % 250 + 1, channels * depth // 8).astype(np.uint8).tobytes()
        return png(width, height, zlib.compress((b"\0" + row) * height, 1), kind=(depth, color))

    return make


def pnm(kind: bytes, width: int, height: int, maxval: int, body: Callable[[int], bytes]) -> Callable[[], bytes]:
    channels = 3 if kind in (b"P3", b"P6") else 1
    return lambda: b"%s\n%d %d\n%d\n" % (kind, width, height, maxval) + body(width * height * channels)


ATTACKS: dict[str, Callable[[], bytes]] = {
    "png: 60,000 x 60,000": lambda: png(60_000, 60_000, b""),
    "png: 32x32, rows inflate to 4 GB": lambda: png(32, 32, zeros(1 << 32)),
    "png: 32x32, 19 MB of empty blocks": lambda: png(32, 32, empty_blocks(19_000_000)),
    "png: 2500x2500, 19 MB of empty blocks": lambda: png(2500, 2500, empty_blocks(19_000_000)),
    "png: 1.6 million chunks": lambda: png(32, 32, good_rows(), chunk(b"teSt", b"") * 1_600_000),
    "png: 15,000 profiles of 1 MB": lambda: png(
        32, 32, good_rows(), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * 15_000
    ),
    "png: text of 200 MB": lambda: png(32, 32, good_rows(), chunk(b"zTXt", b"a\0\0" + zeros(200_000_000))),
    "png: EXIF tags that share 10 MB": exif_png,
    "png: 3,000 frames": lambda: animated("PNG", 3000),
    "jpeg: 3,000 scans": small_scans,
    "jpeg: 16 scans of 25 Mpx": lambda: few_large_scans(6120, 4080, 16),
    "jpeg: 100 scans of 4 Mpx": lambda: few_large_scans(2400, 1660, 100),
    "jpeg: one scan of ten, 25 Mpx": lambda: first_scan_only(6120, 4080),
    "avif: 144 Mpx told as 16x16": hidden_size_avif,
    "png: black 50 Mpx": lambda: saved(Image.new("RGB", (8660, 5770)), "PNG"),
    "bmp: ends of lines": lambda: rle_bmp_of(b"\0\0" * 1999, 1999),
    "bmp: 1.9 MB of runs": lambda: rle_bmp_of(b"\x01\x05" * 950_000, 1999),
    "png: interlaced 50 Mpx": lambda: interlaced_png(8660, 5770),
    "jpeg: a million EXIF segments": lambda: many_segments(0xE1, b"Exif\0\0abcdefgh"),
    "jpeg: a million comments": lambda: many_segments(0xFE, b"abcdefgh"),
    "gif: comments of 20 MB": gif_comments,
    "gif: ten million blocks": gif_tiny_blocks,
    "gif: 3,000 frames": lambda: animated("GIF", 3000),
    "webp: 3,000 frames": lambda: animated("WEBP", 3000),
    "bmp: ten million runs": lambda: rle_bmp_of(b"\x01\x05" * 9_900_000, 5000),
    "tiff: a tile of 1.6 Gpx": huge_tile,
    "tiff: tags that share 10 MB": lambda: tags(5000, 10_000_000, 70_000) + bytes(10_070_000),
    "ppm: 10 million numbers as text": pnm(b"P2", 3160, 3160, 255, lambda n: b"1 " * n),
    "pgm: 9 Mpx of maxval 4095": pnm(b"P5", 3100, 3100, 4095, lambda n: b"\x01\x02" * n),
}

HONEST: dict[str, Callable[[], bytes]] = {
    "jpeg 36 Mpx, 4:4:4, hard to compress": photograph(7360, 4912, "JPEG", quality=96, subsampling=0),
    "tiff 30 Mpx 32 bits, LZW": lambda: saved(Image.new("I", (6000, 5000), 5), "TIFF", compression="tiff_lzw"),
    "jpeg 50 Mpx": photograph(8660, 5770, "JPEG", quality=85),
    "jpeg 50 Mpx, upright by EXIF": lambda: saved(
        Image.fromarray(scene(8660, 5770)),
        "JPEG",
        quality=85,
        exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    ),
    "jpeg 50 Mpx, progressive, 4:4:4": photograph(8660, 5770, "JPEG", quality=75, progressive=True, subsampling=0),
    "jpeg 25 Mpx, progressive": photograph(6120, 4080, "JPEG", quality=85, progressive=True),
    "jpeg 25 Mpx, progressive, 4:4:4": photograph(6120, 4080, "JPEG", quality=85, progressive=True, subsampling=0),
    "jpeg 12 Mpx, without its end": lambda: saved(Image.fromarray(scene(4000, 3000)), "JPEG", quality=85)[:-2],
    "jpeg 25 Mpx, CMYK": photograph(6120, 4080, "JPEG", "CMYK", quality=85),
    "png 50 Mpx RGB": raw_png(8660, 5770, 8, 2, 3),
    "png 25 Mpx RGB": raw_png(6120, 4080, 8, 2, 3),
    "png 25 Mpx RGBA": raw_png(6120, 4080, 8, 6, 4),
    "png 25 Mpx 16-bit RGBA": raw_png(6120, 4080, 16, 6, 4),
    "png 20 Mpx 16-bit RGBA": raw_png(5200, 3840, 16, 6, 4),
    "png 40 Mpx RGBA": raw_png(7700, 5190, 8, 6, 4),
    "png 50 Mpx 16-bit grey": raw_png(8660, 5770, 16, 0, 1),
    "png 12 Mpx 16-bit RGBA": raw_png(4200, 2800, 16, 6, 4),
    "png 25 Mpx 16-bit grey": raw_png(6120, 4080, 16, 0, 1),
    "webp 25 Mpx": photograph(6120, 4080, "WEBP", quality=60, method=0),
    "webp 20 Mpx": photograph(5200, 3840, "WEBP", quality=60, method=0),
    "webp 20 Mpx lossless": photograph(5200, 3840, "WEBP", lossless=True, quality=0, method=0),
    "webp 12 Mpx": photograph(4000, 3000, "WEBP", quality=80, method=0),
    "webp 12 Mpx lossless": photograph(4000, 3000, "WEBP", lossless=True, method=0, quality=0),
    "avif 25 Mpx": photograph(6120, 4080, "AVIF", quality=50, speed=10),
    "avif 20 Mpx": photograph(5200, 3840, "AVIF", quality=50, speed=10),
    "avif 20 Mpx, 4:4:4": photograph(5200, 3840, "AVIF", quality=90, speed=10, subsampling="4:4:4"),
    "avif 12 Mpx": photograph(4000, 3000, "AVIF", quality=50, speed=10),
    "gif 50 Mpx of one colour": lambda: saved(Image.new("P", (8660, 5770), 3), "GIF"),
    "gif 25 Mpx": photograph(6120, 4080, "GIF", "L"),
    "bmp 6.6 Mpx": photograph(3000, 2200, "BMP"),
    "tiff 6.6 Mpx": photograph(3000, 2200, "TIFF"),
    "tiff 4 Mpx, deflate": photograph(2400, 1600, "TIFF", compression="tiff_adobe_deflate"),
    "tiff 25 Mpx, JPEG": photograph(6120, 4080, "TIFF", compression="jpeg"),
    "tiff 30 Mpx float of one value": lambda: saved(Image.new("F", (6000, 5000), 0.5), "TIFF", compression="tiff_lzw"),
    "ppm 6.6 Mpx": photograph(3000, 2200, "PPM"),
}


def measure(path: Path) -> str:
    """Decode one file; its answer, peak memory and processor time as a row of the table."""
    decode(saved(Image.new("RGB", (8, 8)), "PNG"))
    data = path.read_bytes()
    start = time.process_time()
    try:
        height, width, _ = decode(data).shape
        answer = f"{width}x{height}"
    except ImageError as error:
        answer = str(error)
    spent = time.process_time() - start
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1000  # of this program; ru_maxrss includes the parent
    return f"{answer[:110]} | {peak:.0f} | {spent:.2f}"


def rows(wanted: list[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for name, make in {**ATTACKS, **HONEST}.items():
            if wanted and name not in wanted:
                continue
            path.write_bytes(make())
            size = path.stat().st_size / 1000
            try:
                command = [sys.executable, __file__, "--measure", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
                got = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
            except subprocess.TimeoutExpired:
                got = f"ended after {LONGEST} s | |"
            yield f"| {name} | {size:,.0f} | {got} |"


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(measure(Path(sys.argv[2])))
        return
    print("| image | kB | answer | peak MB | CPU s |\n|---|---|---|---|---|")
    for row in rows(sys.argv[1:]):
        print(row, flush=True)


if __name__ == "__main__":
    main()
