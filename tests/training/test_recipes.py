"""What `small_data` chooses from a look at the images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coatnet.data.augmentation import AugmentationConfig
from coatnet.training.recipes import small_data


def augmentation_for(folder: Path, side: int, *, grey: bool) -> AugmentationConfig:
    """What is chosen for two classes of ten noisy images each."""
    noise = np.random.default_rng(0)
    for number in range(20):
        pixels = noise.integers(0, 256, (side, side) if grey else (side, side, 3), dtype=np.uint8)
        path = folder / ("a" if number % 2 else "b") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return small_data(str(folder)).augmentation


@pytest.mark.parametrize(
    ("side", "grey", "moved_by"),
    [
        (32, False, {"horizontal_flip", "crop_padding"}),
        (100, False, {"horizontal_flip", "rotation", "translation", "zoom"}),
        (100, True, {"rotation", "translation", "zoom"}),
        (128, False, {"horizontal_flip", "crop_scale"}),
        (128, True, {"rotation", "translation", "zoom"}),  # grey images are often signs or text
    ],
)
def test_augmentation_follows_from_size_and_colour(tmp_path: Path, side: int, grey: bool, moved_by: set[str]) -> None:
    chosen, nothing = augmentation_for(tmp_path, side, grey=grey), AugmentationConfig()
    changed = {name for name in AugmentationConfig.model_fields if getattr(chosen, name) != getattr(nothing, name)}
    assert changed - {"label_smoothing", "color_jitter"} == moved_by
    assert ("color_jitter" in changed) == (not grey and side > 32)


def test_images_that_use_little_of_their_range_are_told(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32), 3 + 200 * (np.arange(32) > 15) * (number % 2 == 1), np.uint8)).save(path)
    (levels,) = (line for line in small_data(str(tmp_path)).choices if line.startswith("levels: "))
    assert "images looked at use fewer than 32 of 256: 'a/" in levels
