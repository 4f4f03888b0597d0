"""Every kind of file comes out as the pixels written down here, every bad one as an ImageError with its code."""

import contextlib
import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coatnet.data.images import CODES, LOCAL_FORMATS, STRICT_FORMATS, ImageError, ImageLimits, decode, read_file
from coatnet.errors import DataError


def encoded(image, file_format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def gradient(height=24, width=32):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)], axis=2).astype(np.uint8)


def png(width, height, body=b"", bit_depth=8, color=2, interlace=0):
    """A PNG file made by hand, whose header may lie about its body."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def code_of(data, limits=ImageLimits()):  # noqa: B008
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    assert caught.value.code in CODES
    return caught.value.code


def test_rgb_is_exact_writable_and_contiguous():
    image = decode(encoded(Image.fromarray(noise())))
    assert np.array_equal(image, noise())
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


def grey16(levels, mode="I;16"):
    image = Image.new(mode, (len(levels), 1))
    for x, level in enumerate(levels):
        image.putpixel((x, 0), level)
    return image


def palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(Image.new("1", (1, 1), 1)), [(255, 255, 255)], id="1"),
        pytest.param(encoded(Image.new("L", (1, 1), 77)), [(77, 77, 77)], id="L"),
        pytest.param(encoded(Image.new("LA", (1, 1), (0, 0))), [(255, 255, 255)], id="LA clear"),
        pytest.param(encoded(Image.new("LA", (1, 1), (0, 51))), [(204, 204, 204)], id="LA a fifth"),
        pytest.param(encoded(Image.new("RGBA", (1, 1), (9, 8, 7, 255))), [(9, 8, 7)], id="RGBA opaque"),
        pytest.param(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 51))), [(255, 204, 204)], id="RGBA a fifth"),
        pytest.param(encoded(Image.new("L", (1, 1), 7), transparency=7), [(255, 255, 255)], id="L with tRNS"),
        pytest.param(
            encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)), [(255, 255, 255)], id="RGB with tRNS"
        ),
        pytest.param(palette_with_transparency(), [(10, 20, 30), (255, 255, 255)], id="P with tRNS"),
        pytest.param(encoded(grey16([0, 257, 65535])), [(0,) * 3, (1,) * 3, (255,) * 3], id="I;16 PNG"),
        pytest.param(encoded(grey16([0, 25700, 65535]), "TIFF"), [(0,) * 3, (100,) * 3, (255,) * 3], id="I;16 TIFF"),
        pytest.param(encoded(grey16([-5, 49997, 99999], "I"), "TIFF"), [(0,) * 3, (128,) * 3, (255,) * 3], id="I TIFF"),
        pytest.param(encoded(grey16([0.0, 99.6, 255.0], "F"), "TIFF"), [(0,) * 3, (100,) * 3, (255,) * 3], id="F TIFF"),
        pytest.param(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)], id="CMYK TIFF"),
        pytest.param(png(1, 1, b"\0" + struct.pack(">HHH", 65535, 0, 32768), 16), [(255, 0, 128)], id="16-bit RGB"),
    ],
)
def test_modes(data, expected):
    assert decode(data)[0].tolist() == [list(pixel) for pixel in expected]


def test_cmyk_jpeg_is_what_pillow_converts():
    data = encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(decode(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("file_format", LOCAL_FORMATS)
def test_formats_are_sniffed_from_the_bytes(file_format):
    image = decode(encoded(Image.fromarray(gradient()), file_format))
    assert image.shape == (24, 32, 3)
    assert np.abs(image.astype(int) - gradient()).mean() < 12  # lossy formats and GIF's palette


def test_a_server_opens_three_formats_only():
    limits = ImageLimits(formats=STRICT_FORMATS)
    for file_format in LOCAL_FORMATS:
        data = encoded(Image.fromarray(gradient()), file_format)
        if file_format in STRICT_FORMATS:
            assert decode(data, limits).shape == (24, 32, 3)
        else:
            assert code_of(data, limits) == "unsupported_format"
    assert code_of(encoded(Image.fromarray(gradient()), "ICO")) == "unsupported_format"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(file_format, orientation):
    upright = np.kron(np.arange(6).reshape(2, 3) * 40 + 20, np.ones((16, 16))).astype(np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 100} if file_format == "JPEG" else {}
    image = decode(
        encoded(Image.fromarray(np.ascontiguousarray(stored)).convert("RGB"), file_format, exif=exif, **options)
    )
    assert image.shape == (32, 48, 3)
    assert np.abs(image[:, :, 0].astype(int) - upright).max() <= (1 if file_format == "JPEG" else 0)


@pytest.mark.parametrize(("enough", "side"), [(None, 640), (321, 640), (320, 320), (100, 160), (80, 80), (1, 80)])
def test_a_large_jpeg_is_decoded_as_small_as_will_do(enough, side):
    picture = Image.fromarray(gradient(640, 960))
    data = encoded(picture, "JPEG", quality=95)
    image = decode(data, enough=enough)
    assert image.shape == (side, side * 3 // 2, 3)
    factor = 640 // side
    whole = decode(data).reshape(side, factor, side * 3 // 2, factor, 3).mean((1, 3))
    assert np.abs(image - whole).mean() < 2
    assert decode(encoded(picture), enough=enough).shape == (640, 960, 3)  # PNG knows no smaller size


def test_damaged_exif_does_not_spoil_the_picture():
    data = encoded(Image.fromarray(noise()), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f nonsense")
    assert np.array_equal(decode(data), noise())


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(file_format):
    frames = [Image.new("RGB", (40, 30), color) for color in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    red, green, blue = decode(data)[10, 10].tolist()
    assert red > 245
    assert green < 10
    assert blue < 10


@pytest.mark.parametrize(
    ("width", "height", "code"),
    [
        (60000, 60000, "too_many_pixels"),
        (1, 178_000_000, "too_many_pixels"),
        (2**31 - 1, 2**31 - 1, "too_many_pixels"),
        (10000, 9000, "too_many_pixels"),  # Pillow would only warn
        (7100, 7100, "too_many_pixels"),  # Pillow would say nothing
        (1, 101, "extreme_aspect"),
        (50000, 1, "extreme_aspect"),
    ],
)
def test_bombs_are_refused_by_their_header(width, height, code):
    # The body is a stump: had it been decoded, the code would be "truncated".
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert code_of(png(width, height, b"\0" * 10)) == code
    assert not caught


def test_a_picture_at_the_limits_passes():
    limits = ImageLimits(max_pixels=32 * 24, max_aspect_ratio=32 / 24)
    assert decode(encoded(Image.fromarray(noise())), limits).shape == (24, 32, 3)
    assert code_of(encoded(Image.fromarray(noise())), limits.replace(max_pixels=32 * 24 - 1)) == "too_many_pixels"
    assert code_of(encoded(Image.fromarray(noise())), limits.replace(max_aspect_ratio=1.3)) == "extreme_aspect"


@pytest.mark.parametrize("interlace", [0, 1])
def test_a_png_with_missing_rows_is_truncated_and_a_black_one_is_not(interlace):
    rows = (b"\0" + bytes(64 * 3)) * 64
    if interlace:
        image = encoded(Image.new("RGB", (64, 64)), "PNG")
        assert decode(image).sum() == 0
        assert code_of(png(64, 64, rows[:200], interlace=1)) == "truncated"
        passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        rows = b"".join((b"\0" + bytes(-(-(64 - x) // dx) * 3)) * -(-(64 - y) // dy) for x, y, dx, dy in passes)
    assert decode(png(64, 64, rows, interlace=interlace)).sum() == 0
    assert code_of(png(64, 64, rows[:-1], interlace=interlace)) == "truncated"
    assert code_of(png(64, 64, rows[: len(rows) // 2], interlace=interlace)) == "truncated"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_half_a_file_is_never_half_a_picture(file_format):
    data = encoded(Image.fromarray(noise(64, 64)), file_format)
    assert code_of(data[: len(data) // 2]) in {"truncated", "corrupt"}


def test_truncated_jpeg_says_so():
    data = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    assert code_of(data[: len(data) // 2]) == "truncated"


def test_what_is_no_image():
    assert code_of(b"") == "empty"
    assert code_of(np.random.default_rng(0).bytes(1000)) == "unsupported_format"
    assert code_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unsupported_format"
    assert code_of(b"\xff\xd8\xff") in {"corrupt", "truncated"}
    with pytest.raises(
        ImageError, match="unsupported_format: This is a HEIC image; JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and PPM"
    ):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert code_of(bytes(21), ImageLimits(max_bytes=20)) == "too_large_bytes"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encoded(Image.new("L", (8, 8)), "GIF"), "a GIF"),
        (encoded(Image.new("L", (8, 8)), "AVIF"), "an AVIF"),
        (encoded(Image.new("L", (8, 8)), "PPM"), "a PPM"),
        (b"%PDF-1.7", "a PDF"),
        (b"<?xml version='1.0'?><svg width='9'/>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>Not found", "a web page"),
        (b"\x01\x02\x03", "no image known here (it starts with 01 02 03)"),
    ],
)
def test_a_refused_file_is_told_for_what_it_is(data, what):
    with pytest.raises(ImageError) as caught:
        decode(data, ImageLimits(formats=STRICT_FORMATS))
    assert caught.value.detail == f"This is {what}; JPEG, PNG and WebP are taken"


def mutant(data: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(data)
    kind = generator.integers(4)
    if kind == 0:
        return bytes(changed[: generator.integers(1, len(changed))])
    for _ in range(generator.integers(1, 12)):
        # Most damage near the front, where the headers are.
        place = int(len(changed) * generator.random() ** (3 if kind == 1 else 1))
        changed[place] = generator.integers(256)
    if kind == 3:
        start = generator.integers(len(changed))
        del changed[start : start + generator.integers(1, 40)]
    return bytes(changed)


def check_mutants(file_format, count):
    data = encoded(Image.fromarray(gradient(48, 40)), file_format)
    generator = np.random.default_rng(LOCAL_FORMATS.index(file_format))
    outcomes = {"image": 0, "error": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(count):
            outcome = outcome_of(mutant(data, generator))
            outcomes[outcome] += 1
    assert outcomes["error"] > count // 10


def outcome_of(data):
    """image, or error for an ImageError; any other exception fails the test that calls this."""
    with contextlib.suppress(ImageError):
        image = decode(data, ImageLimits(max_pixels=4_000_000))
        assert image.ndim == 3
        assert image.shape[2] == 3
        return "image"
    return "error"


@pytest.mark.parametrize("file_format", LOCAL_FORMATS)
def test_mutants_are_an_image_or_an_image_error(file_format):
    check_mutants(file_format, 200)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", LOCAL_FORMATS)
def test_ten_thousand_mutants_are_an_image_or_an_image_error(file_format):
    check_mutants(file_format, 10_000)


def test_warnings_filters_are_put_back():
    before = list(warnings.filters)
    decode(encoded(Image.fromarray(noise())))
    assert code_of(b"\x89PNG\r\n\x1a\n rubbish") == "truncated"
    assert list(warnings.filters) == before


def test_read_file(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(noise())))  # a PNG that is called .jpg
    assert np.array_equal(decode(read_file(path)), noise())
    with pytest.raises(ImageError, match=r"a\.jpg: too_large_bytes: .* is above 100"):
        read_file(path, ImageLimits(max_bytes=100))
    with pytest.raises(ImageError, match=r"missing\.png: unreadable: No such file"):
        read_file(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="unreadable"):
        read_file(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="empty"):
        read_file(tmp_path / "empty.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a plain file"):
        read_file(tmp_path / "pipe.png")


def test_an_error_is_a_data_error_and_survives_pickling():
    error = ImageError("corrupt", "two\nlines").named("a/b.png")
    assert isinstance(error, DataError)
    assert error.exit_code == 3
    assert str(error) == "a/b.png: corrupt: two lines"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.detail, copy.name, str(copy)) == ("corrupt", "two lines", "a/b.png", str(error))
