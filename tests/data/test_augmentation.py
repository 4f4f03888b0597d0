"""Augmentation is a pure function of image, config and seed; each option does what it says and nothing when off."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from pydantic import ValidationError

from coatnet.data.augmentation import AugmentationConfig, BatchAugmentation, augment
from coatnet.data.geometry import Window, show
from coatnet.data.preprocess import Preprocess
from coatnet.data.randomness import Draws
from coatnet.errors import ConfigError

EVERYTHING = AugmentationConfig(
    horizontal_flip=True,
    vertical_flip=True,
    crop_padding=4,
    crop_scale=(0.3, 1.0),
    rotation=20,
    translation=0.1,
    zoom=(0.8, 1.2),
    color_jitter=0.4,
    randaugment_layers=2,
)


def picture(height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=64, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 3, x * 3, 255 - x - y], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_scale": (0.5, 1.5)}, "beyond 1, the whole image"),
        ({"zoom": "1.2,0.8"}, "1.2,0.8 is not a range"),
        ({"crop_scale": "0,1"}, "0,1 is not a range"),
        ({"zoom": "1"}, "zoom"),
        ({"erasing": 1.1}, "erasing"),
        ({"flip": True}, "flip"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValidationError, match=message):
        AugmentationConfig(**values)


def test_ranges_are_text_on_the_command_line():
    assert AugmentationConfig(crop_scale="0.08, 1") == AugmentationConfig(crop_scale=(0.08, 1.0))
    assert AugmentationConfig.model_validate_json(EVERYTHING.model_dump_json()) == EVERYTHING


def test_every_field_has_a_help_text():
    assert all(field.description for field in AugmentationConfig.model_fields.values())


@pytest.mark.parametrize("shape", [(40, 56), (32, 32), (8, 8), (300, 90)])
def test_the_same_seed_gives_the_same_pixels_and_leaves_the_image_alone(shape):
    image = picture(*shape)
    before = image.copy()
    results = [augment(image, (32, 32), EVERYTHING, seed) for seed in [*range(20), *range(20)]]
    assert all(result.shape == (32, 32, 3) and result.dtype == np.uint8 for result in results)
    assert all(np.array_equal(first, second) for first, second in zip(results[:20], results[20:], strict=True))
    assert len({result.tobytes() for result in results}) == 20
    assert np.array_equal(image, before)


def test_global_generators_are_neither_used_nor_changed():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = augment(picture(), (32, 32), EVERYTHING, 5)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    assert np.array_equal(first, augment(picture(), (32, 32), EVERYTHING, 5))


def test_nothing_is_the_view_of_evaluation():
    image = picture()
    assert np.array_equal(augment(image, (32, 32), AugmentationConfig(), 3), Preprocess(image_size=32).resized(image))
    assert np.array_equal(augment(image, (40, 56), AugmentationConfig(), 3), image)


def test_flips():
    image = picture(32, 32)
    outcomes = {augment(image, (32, 32), AugmentationConfig(horizontal_flip=True), s).tobytes() for s in range(40)}
    assert outcomes == {image.tobytes(), image[:, ::-1].tobytes()}
    outcomes = {augment(image, (32, 32), AugmentationConfig(vertical_flip=True), s).tobytes() for s in range(40)}
    assert outcomes == {image.tobytes(), image[::-1].tobytes()}


def test_crop_padding_is_a_crop_of_the_reflected_image():
    image = picture(32, 32)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    crops = {padded[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(5) for x in range(5)}
    seen = {crops[augment(image, (32, 32), AugmentationConfig(crop_padding=2), seed).tobytes()] for seed in range(300)}
    assert len(seen) == 25


def test_a_window_inside_the_image_is_that_part_of_it():
    image = smooth()
    assert np.array_equal(show(image, (32, 32), Window(32, 24, 32, 32)), image[8:40, 16:48])


def test_a_quarter_turn_is_rot90():
    image = smooth()
    turned = show(image, (64, 64), Window(32, 32, 64, 64, angle=np.pi / 2))
    assert (
        np.abs(turned.astype(int) - np.rot90(image, 1)).max() <= 1
        or np.abs(turned.astype(int) - np.rot90(image, -1)).max() <= 1
    )


def test_outside_is_the_colour_of_the_border():
    image = np.full((64, 64, 3), (10, 200, 30), dtype=np.uint8)
    image[20:40, 20:40] = 255
    far = show(image, (64, 64), Window(32, 32, 128, 128))
    assert (far[:10] == (10, 200, 30)).all()
    assert far[32, 32].min() > 150 or far[30, 30].min() > 150


def test_turning_a_large_image_does_not_alias():
    board = (np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)
    turned = show(np.repeat(board[:, :, None], 3, 2), (40, 40), Window(200, 200, 280, 280, angle=0.5))
    assert np.abs(turned.astype(int) - 127).max() <= 4


def test_random_crops_have_the_area_asked_for():
    y, x = np.mgrid[:200, :200]
    image = np.stack([y, x, 0 * x], axis=2).astype(np.uint8)
    config = AugmentationConfig(crop_scale=(0.25, 0.25), crop_aspect=(1.0, 1.0))
    for seed in range(20):
        crop = augment(image, (50, 50), config, seed).astype(int)
        assert abs(int(np.ptp(crop[:, :, 0])) - 98) <= 2  # half of each side, read at the centres of pixels
        assert abs(int(np.ptp(crop[:, :, 1])) - 98) <= 2


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(rotation=10),
        AugmentationConfig(translation=0.2),
        AugmentationConfig(zoom=(0.5, 2)),
        AugmentationConfig(crop_scale=(0.2, 1)),
        AugmentationConfig(color_jitter=0.5),
        AugmentationConfig(randaugment_layers=2, randaugment_magnitude=9),
    ],
)
def test_every_option_has_an_effect(config):
    image = smooth()
    assert len({augment(image, (64, 64), config, seed).tobytes() for seed in range(12)}) > 4


def test_colour_jitter_is_brightness_contrast_and_saturation_one_after_the_other():
    """Against plain arithmetic, and against Pillow's, which rounds down after each: on an image that none cuts."""
    image = (picture() // 3 + 80).astype(np.uint8)
    grey = np.array([0.299, 0.587, 0.114])
    for seed in range(20):
        draws, pillow, plain = Draws(seed), Image.fromarray(image), image.astype(float)
        brightness, contrast, saturation = (draws.uniform(0.8, 1.2) for _ in range(3))
        plain *= brightness
        plain = (plain @ grey).mean() * (1 - contrast) + plain * contrast
        plain = (plain @ grey)[..., None] * (1 - saturation) + plain * saturation
        for enhance, factor in (
            (ImageEnhance.Brightness, brightness),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, saturation),
        ):
            pillow = enhance(pillow).enhance(factor)
        found = augment(image, image.shape[:2], AugmentationConfig(color_jitter=0.2), seed)
        assert np.abs(found - plain).max() < 0.51
        assert np.abs(found.astype(int) - np.array(pillow)).max() <= 4


def test_import_without_torch():
    code = "import sys, coatnet.data.augmentation, coatnet.data.loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def batch(size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 16, 16, generator=generator), torch.arange(size) % 4


def test_targets_without_mixing():
    images, labels = batch()
    same, targets = BatchAugmentation(AugmentationConfig())(images, labels, 4, seed=0)
    assert torch.equal(same, images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 4).float())
    _, smoothed = BatchAugmentation(AugmentationConfig(label_smoothing=0.2))(images, labels, 4, seed=0)
    assert torch.allclose(smoothed, targets * 0.8 + 0.05)


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(mixup=0.8),
        AugmentationConfig(cutmix=1.0),
        AugmentationConfig(erasing=0.9),
        AugmentationConfig(mixup=0.8, cutmix=1.0, erasing=0.5, label_smoothing=0.1),
    ],
)
def test_batch_augmentation_is_a_pure_function_of_the_seed(config):
    images, labels = batch()
    before = images.clone()
    apply = BatchAugmentation(config)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    results = [apply(images, labels, 4, seed) for seed in (1, 2, 1)]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.equal(images, before)
    assert torch.equal(results[0][0], results[2][0])
    assert torch.equal(results[0][1], results[2][1])
    assert not torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1].sum(1), torch.ones(8))


def test_mixup_mixes_images_as_it_mixes_targets():
    images, labels = batch()
    mixed, targets = BatchAugmentation(AugmentationConfig(mixup=1.0))(images, labels, 4, seed=3)
    weight = float(targets[0, 0])
    assert 0 < weight < 1
    assert torch.allclose(mixed, weight * images + (1 - weight) * images.flip(0), atol=1e-6)


def test_an_odd_batch_cannot_be_mixed():
    images, labels = batch(7)
    with pytest.raises(ConfigError, match="A batch of 7 cannot be mixed in pairs"):
        BatchAugmentation(AugmentationConfig(mixup=1.0))(images, labels, 4, seed=0)
