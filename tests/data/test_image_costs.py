"""What a decode may cost is bounded by counts and sizes that a file declares, before a pixel is decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from coatnet.data.containers import avif, bmp, gif, jpeg, png, tiff, webp
from coatnet.data.containers.reading import READERS
from coatnet.data.images import LOCAL_FORMATS, ImageError, decode

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
SCAN, END = b"\xff\xda", b"\xff\xd9"


def saved(image=PICTURE, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def made_png(packed, width=32, height=32):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def refusal(data):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_format_that_is_opened_has_a_reader():
    assert set(READERS) == set(LOCAL_FORMATS)


class Inflater:
    """Inflates as zlib does, and counts; it has no `flush`, which would inflate all that is left."""

    make = staticmethod(zlib.decompressobj)
    total = 0

    def __init__(self):
        self.real = self.make()

    def decompress(self, data, most):
        out = self.real.decompress(data, most)
        Inflater.total += len(out)
        return out

    @property
    def unconsumed_tail(self):
        return self.real.unconsumed_tail

    @property
    def eof(self):
        return self.real.eof


@pytest.fixture
def inflater(monkeypatch):
    monkeypatch.setattr(Inflater, "total", 0)
    monkeypatch.setattr(png.zlib, "decompressobj", Inflater)
    return Inflater


def test_rows_of_a_png_are_inflated_no_further_than_its_pixels(inflater):
    assert decode(made_png(zlib.compress(bytes(50_000_000)))).sum() == 0  # black: the rows are counted
    assert inflater.total == 32 * (1 + 32 * 3)


def test_compressed_rows_that_hold_nothing_are_refused():
    nothing = zlib.compress(b"", 0)[:2] + b"\0\0\0\xff\xff" * 1_000_000  # stored blocks of no bytes
    assert "5000002 compressed bytes for 3104 bytes" in refusal(made_png(nothing))
    assert "5000002 compressed bytes for 24002000 bytes" in refusal(made_png(nothing, 4000, 2000))


def test_png_chunks_that_no_pixel_needs_are_not_inflated_nor_kept(inflater):
    data = saved()
    bomb = zlib.compress(bytes(5_000_000))
    for kind, head in (
        (b"iCCP", b"a\0\0"),
        (b"zTXt", b"k\0\0"),
        (b"iTXt", b"k\0\1\0\0\0"),
        (b"fdAT", b""),
        (b"eXIf", b""),
    ):
        with_bomb = data[:33] + chunk(kind, head + bomb) + data[33:]
        assert np.array_equal(decode(with_bomb), np.asarray(PICTURE))
        assert READERS["PNG"](with_bomb).data == data
    assert inflater.total == 0
    text = data[:33] + chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb) + data[33:]
    assert np.array_equal(decode(text), np.asarray(PICTURE))  # an orientation may be in there
    assert 0 < inflater.total <= 1 << 20


def test_png_chunks_are_counted():
    data = saved()
    assert decode(data[:33] + chunk(b"teSt", b"") * 10_000 + data[33:]).shape == (24, 32, 3)
    assert "more than 20000 chunks" in refusal(data[:33] + chunk(b"teSt", b"") * png.MAX_CHUNKS + data[33:])


def test_jpeg_scans_are_counted_and_weighed_by_pixels():
    data = saved(file_format="JPEG", progressive=True)
    start = data.rindex(SCAN)
    scan = data[start:-2]
    assert decode(data[:-2] + scan * 20 + END).shape == (24, 32, 3)
    assert "more than 100 scans" in refusal(data[:-2] + scan * jpeg.MAX_SCANS + END)
    large = saved(Image.new("L", (4000, 2500)), "JPEG", progressive=True)  # 10 Mpx
    last = large[large.rindex(SCAN) : -2]
    assert "4000x2500 pixels is above" in refusal(large[:-2] + last * 60 + END)


def test_jpeg_scans_behind_the_end_do_not_count():
    data = saved(file_format="JPEG")
    assert np.array_equal(decode(data + SCAN * 1000), decode(data))  # a phone appends a film


def test_jpeg_segments_are_counted_and_those_that_no_pixel_needs_left_out():
    data, comment = saved(file_format="JPEG"), b"\xff\xfe\0\x0aabcdefgh"
    assert READERS["JPEG"](data[:2] + comment * 100 + data[2:]).data == data
    assert "more than 2000 segments" in refusal(data[:2] + comment * 2001 + data[2:])
    profile = saved(file_format="JPEG", icc_profile=bytes(200_000), exif=b"Exif\0\0" + bytes(60_000))
    assert len(READERS["JPEG"](profile).data) == len(data)


def test_jpeg_codings_without_a_limit_are_refused():
    data = saved(file_format="JPEG")
    arithmetic = data.replace(b"\xff\xc0", b"\xff\xc9", 1)
    assert "lossless or arithmetic coding; expected Huffman coding" in refusal(arithmetic)


def test_gif_blocks_are_counted_and_further_frames_left_out():
    data = saved(file_format="GIF")
    place = 13 + 3 * 256
    comments = b"!\xfe" + b"\x01 " * 1000 + b"\0"
    assert READERS["GIF"](data[:place] + comments + data[place:]).data == data
    assert "more than 200000 blocks" in refusal(
        data[:place] + b"!\xfe" + b"\x01 " * gif.MAX_BLOCKS + b"\0" + data[place:]
    )
    animated = saved(file_format="GIF", save_all=True, append_images=[PICTURE.rotate(90)] * 5)
    assert len(READERS["GIF"](animated).data) < len(data) + 100
    assert np.array_equal(decode(animated), decode(data))


def test_webp_keeps_one_frame_and_no_metadata():
    data = saved(file_format="WEBP", exif=b"Exif\0\0" + bytes(9000), xmp=bytes(9000), icc_profile=bytes(9000))
    assert len(READERS["WEBP"](data).data) < 2000
    frames = [PICTURE, *(PICTURE.rotate(angle) for angle in range(10, 200, 10))]
    animated = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert READERS["WEBP"](animated).data.count(b"ANMF") == 1
    assert np.array_equal(decode(animated), np.asarray(PICTURE))
    many = data[:12] + b"junk\0\0\0\0" * webp.MAX_CHUNKS + data[12:]
    assert "more than 10000 chunks" in refusal(many)


def test_run_lengths_of_a_bmp_are_limited_by_bytes_and_pixels():
    def runs(side, body):
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
        return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + header + bytes(1024) + body

    assert decode(runs(16, b"\x10\x05\0\0" * 16 + b"\0\1")).shape == (16, 16, 3)
    assert "above 2000000" in refusal(runs(16, bytes(bmp.MAX_RUN_LENGTH_BYTES)))
    assert "too_many_pixels" in refusal(runs(2001, b"\0\1"))


def directory(*fields):
    """A TIFF of these tags, each one number of 32 bits."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + bytes(4)


PLAIN = ((256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (directory(*PLAIN, (322, 40_000), (323, 40_000)), "1600000000 bytes in its strips or tiles"),
        (directory(*PLAIN, (322, 1 << 31), (323, 1 << 31)), "bytes in its strips or tiles"),
        (directory((256, 1000), (257, 1000), *PLAIN[2:], (322, 1), (323, 1)), "1000000 strips or tiles"),
        (directory(*PLAIN[:3], (259, 34925), *PLAIN[4:]), "compression 34925; expected none"),
        (directory(*((32768 + i, 1) for i in range(1001))), "1001 tags; at most 1000"),
        (directory((256, 5000), (257, 5000), (258, 8), (259, 7)) + SCAN * 17, "17 JPEG scans of 425000000 pixels"),
    ],
)
def test_a_tiff_is_refused_by_what_its_directory_declares(data, reason):
    assert reason in refusal(data)


def test_strips_of_a_tiff_that_share_their_bytes_are_refused():
    rows = 24
    size = struct.pack("<HHII", 279, 4, rows, 8 + 2 + 9 * 12 + 4)  # behind the directory
    tags = directory(*PLAIN[:1], (257, rows), *PLAIN[2:], (278, 1), (273, 8))
    head = tags[:8] + struct.pack("<H", 9) + tags[10:-4] + size + bytes(4)
    assert "strips share bytes: 24000 in" in refusal(head + struct.pack("<I", 1000) * rows + bytes(1000))


def test_tags_of_a_tiff_that_no_pixel_needs_are_left_out():
    data = saved(PICTURE, "TIFF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", icc_profile=bytes(5000))
    kept = tiff.read_tiff(data).data
    assert Image.open(io.BytesIO(kept)).info.get("icc_profile") is None
    assert np.array_equal(decode(data), np.asarray(PICTURE))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_tags_that_share_a_megabyte_are_not_copied(file_format):
    entries = b"".join(struct.pack("<HHII", 0x8000 + i, 7, 30_000, 20_000) for i in range(1000))
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 1001) + entries + orientation + bytes(40_000)
    image = decode(saved(PICTURE, file_format, exif=b"Exif\0\0" + block, lossless=True, quality=95, subsampling=0))
    assert np.abs(image[::-1, ::-1].astype(int) - np.asarray(PICTURE)).mean() < 12


def test_levels_as_text_are_read_at_once_and_checked():
    assert decode(b"P2 # c\n3 1\n10\n0 5\n# five\n10\n")[0, :, 0].tolist() == [0, 128, 255]
    assert decode(b"P1\n4 1\n10 01")[0, :, 0].tolist() == [0, 255, 255, 0]
    assert "truncated: PPM with 2 of 3 levels" in refusal(b"P2\n3 1\n10\n0 5\n")
    assert "a level of 11, above its maxval 10" in refusal(b"P2\n3 1\n10\n0 5 11\n")
    assert "header is damaged" in refusal(b"P2\n3 x\n10\n0 5 11\n")


@pytest.mark.parametrize("frames", [1, 3])
def test_the_coded_picture_of_an_avif_is_measured_whatever_its_boxes_tell(frames, monkeypatch):
    images = [Image.new("RGB", (50, 41), (number, 0, 0)) for number in range(frames)]
    options = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    data = saved(images[0], "AVIF", **options)
    hidden = data.replace(struct.pack(">II", 50, 41), struct.pack(">II", 16, 16))
    assert hidden != data
    monkeypatch.setattr(avif, "MAX_PIXELS", 2049)
    assert "a coded picture of 2050 pixels is above 2049" in refusal(hidden)


def test_boxes_of_an_avif_that_share_bytes_or_come_twice_are_refused():
    data = saved(PICTURE, "AVIF")
    start = data.index(b"meta") - 4
    meta = data[start : start + int.from_bytes(data[start : start + 4], "big")]
    assert "several meta boxes" in refusal(data + meta)
    assert decode(data + struct.pack(">I", 8) + b"free").shape == (24, 32, 3)


def test_an_avif_with_many_boxes_is_refused():
    data = saved(PICTURE, "AVIF")
    filler = struct.pack(">I", 1_100_000) + b"meta" + bytes(1_100_000 - 8)
    assert "1100000 bytes of meta boxes" in refusal(data + filler)
