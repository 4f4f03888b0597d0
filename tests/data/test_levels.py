"""Grey of more than 8 bits comes out as the picture it is, wherever it comes from."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from coatnet.classifier.inputs import as_array
from coatnet.data.images import ImageError, decode

RAMP = np.tile(np.linspace(0, 1, 256), (4, 1))
GREY = np.rint(RAMP * 255).astype(np.uint8)


def saved(levels, file_format="TIFF", **options):
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, file_format, **options)
    return buffer.getvalue()


def is_ramp(rgb):
    return np.abs(rgb.astype(int) - GREY[:, :, None]).max() <= 1


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param(RAMP.astype(np.float32), id="float to 1"),
        pytest.param((RAMP * 255).astype(np.float32), id="float to 255"),
        pytest.param((RAMP * 65535).astype(np.float32), id="float to 65535"),
        pytest.param((RAMP * 3e7 - 1e7).astype(np.float32), id="float, its own range"),
        pytest.param((RAMP * 255).round().astype(np.int32), id="32 bits to 255"),
        pytest.param((RAMP * 4095).astype(np.int32), id="32 bits to 4095"),
        pytest.param((RAMP * 2e9).astype(np.int32), id="32 bits, their own range"),
        pytest.param((RAMP * 4e9 - 2e9).astype(np.int32), id="32 bits with a sign"),
        pytest.param((RAMP * 4095).astype(np.uint16), id="12 in 16 bits"),
        pytest.param((RAMP * 65535).astype(np.uint16), id="16 bits"),
    ],
)
def test_greys_keep_their_range_from_files_bytes_and_pillow(levels, tmp_path):
    data = saved(levels)
    (tmp_path / "a.tif").write_bytes(data)
    assert is_ramp(decode(data))
    for image in (data, tmp_path / "a.tif", Image.fromarray(levels)):
        assert np.array_equal(as_array(image), decode(data))
    if levels.dtype == np.uint16:
        assert np.array_equal(decode(saved(levels, "PNG")), decode(data))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_every_order_of_bytes(mode):
    levels = (RAMP * 4095).astype(">u2" if mode.endswith("B") else "<u2")
    image = Image.frombytes(mode, (256, 4), levels.tobytes())
    assert is_ramp(as_array(image))


def test_white_is_what_the_file_tells():
    half = (RAMP * 2000).astype(np.uint16)  # of 16000: an eighth of white at most
    for data in (
        b"P5 256 4 16000\n" + half.astype(">u2").tobytes(),
        b"P2 256 4 16000\n" + " ".join(map(str, half.ravel())).encode(),
        saved(half, tiffinfo={281: 16000}),
    ):
        assert decode(data).max() == 32
    assert decode(saved(half)).max() == 125  # else the lowest white that is not exceeded: 4095
    darker = b"P5 256 4 4095\n" + (RAMP * 200).astype(">u2").tobytes()
    assert decode(darker).max() == 12


def test_significant_bits_of_a_png_tell_white_where_levels_are_not_scaled():
    data = saved((RAMP * 700).astype(np.uint16), "PNG")
    chunk = struct.pack(">I", 1) + b"sBIT\x0a" + struct.pack(">I", zlib.crc32(b"sBIT\x0a"))
    assert decode(data[:33] + chunk + data[33:]).max() == 174  # of 1023
    whole = saved((RAMP * 65535).astype(np.uint16), "PNG")
    assert is_ramp(decode(whole[:33] + chunk + whole[33:]))


def test_unsigned_32_bits_are_not_read_as_negative():
    data = saved((RAMP * 2**32 - 2**31).clip(-(2**31), 2**31 - 1).astype(np.int32))
    levels = np.frombuffer(data, "<i4", 1024, data.index(struct.pack("<i", -(2**31)))).astype(np.int64) + 2**31
    start = data.index(struct.pack("<i", -(2**31)))
    unsigned = data[:start] + levels.astype("<u4").tobytes() + data[start + 4096 :]
    unsigned = unsigned.replace(struct.pack("<HHIHH", 339, 3, 1, 2, 0), struct.pack("<HHIHH", 339, 3, 1, 1, 0))
    assert is_ramp(decode(unsigned))


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_levels_that_are_no_numbers_are_refused(strange):
    levels = RAMP.astype(np.float32)
    levels[1, :3] = strange
    with pytest.raises(ImageError, match="corrupt: 3 of 1024 levels are NaN or infinite"):
        decode(saved(levels))
