"""The three ways of resizing, on images whose result can be said beforehand."""

import numpy as np
import pytest
from pydantic import ValidationError

from coatnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess


def stripes(height, widths, colors):
    return np.concatenate([np.full((height, w, 3), c, dtype=np.uint8) for w, c in zip(widths, colors, strict=True)], 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 24}, "image_size 24 is below 32, the smallest that five halvings allow"),
        ({"image_size": (224, 31)}, "image_size 31 is below 32"),
        ({"image_size": 32, "std": (0.2, 0.0, 0.2)}, "std .* is not above 0"),
        ({"image_size": 32, "mean": (124, 116, 104)}, "mean .* is not on the scale 0..1"),
        ({"image_size": 32, "crop_fraction": 0}, "crop_fraction"),
        ({"image_size": 32, "resize": "squash"}, "resize"),
        ({"image_size": 32, "sizes": 1}, "sizes"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValidationError, match=message):
        Preprocess(**values)


def test_json_round_trip():
    preprocess = Preprocess(image_size=64, resize="pad", mean=(0.1, 0.2, 0.3))
    assert preprocess.image_size == (64, 64)
    assert Preprocess.model_validate_json(preprocess.model_dump_json()) == preprocess


def test_an_image_of_the_size_is_returned_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    for resize in ("crop", "stretch", "pad"):
        assert np.array_equal(Preprocess(image_size=(32, 48), resize=resize).resized(image), image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (1, 1), (33, 31), (64, 96)])
def test_every_shape_comes_out_at_the_size_and_one_colour_stays(shape, resize, interpolation):
    preprocess = Preprocess(image_size=(32, 48), resize=resize, interpolation=interpolation, mean=(0.2, 0.4, 0.6))
    resized = preprocess.resized(np.full((*shape, 3), (51, 102, 153), dtype=np.uint8))  # the mean colour, so pad too
    assert resized.shape == (32, 48, 3)
    assert resized.dtype == np.uint8
    assert (resized == (51, 102, 153)).all()


def test_crop_shows_the_centre():
    image = stripes(64, [32, 64, 32], [0, 100, 200])
    assert (Preprocess(image_size=64).resized(image) == 100).all()


def test_crop_fraction_is_the_share_of_the_shorter_side():
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    image[20:60, 20:60] = 255
    assert Preprocess(image_size=40, crop_fraction=0.5).resized(image).min() == 255
    assert Preprocess(image_size=40, crop_fraction=0.75).resized(image).min() == 0


def test_stretch_shows_everything():
    resized = Preprocess(image_size=64, resize="stretch").resized(stripes(64, [64, 64], [0, 200]))
    assert resized[:, :28].max() == 0
    assert resized[:, 36:].min() == 200


def test_pad_shows_everything_between_bars_of_the_mean_colour():
    resized = Preprocess(image_size=64, resize="pad").resized(np.full((32, 64, 3), 9, dtype=np.uint8))
    assert (resized[16:48] == 9).all()
    assert (resized[:16] == (124, 116, 104)).all()
    assert (resized[48:] == (124, 116, 104)).all()


def test_shrinking_is_antialiased():
    board = np.indices((256, 256)).sum(0) % 2 * 255
    resized = Preprocess(image_size=32).resized(np.repeat(board[:, :, None], 3, 2).astype(np.uint8))
    assert np.abs(resized.astype(int) - 127).max() <= 2


def test_normalized():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 40, 3), dtype=np.uint8)
    got = Preprocess(image_size=(32, 40)).normalized(images)
    expected = ((images / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)
    assert got.shape == (4, 3, 32, 40)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert np.abs(got - expected).max() < 1e-6
    assert np.array_equal(Preprocess(image_size=(32, 40))(images[0]), got[0])
