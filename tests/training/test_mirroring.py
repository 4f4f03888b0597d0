"""Images are mirrored only where their classes survive it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from coatnet.training.look import opened
from coatnet.training.mirroring import judge, names_of_sides
from coatnet.training.recipes import small_data


def arrow(number, side, kind=0):
    """A coloured arrow to the left or to the right, or a cross beside its middle."""
    generator = np.random.default_rng(number)
    ground, colour = (tuple(generator.integers(low, low + 100, 3).tolist()) for low in (0, 150))
    image = Image.new("RGB", (32, 32), ground)
    draw = ImageDraw.Draw(image)
    x, y = generator.integers(13, 19, 2).tolist()
    draw.line((x - 8, y, x + 8, y), fill=colour, width=2)
    if kind:
        draw.line((x, y - 8, x, y + 8), fill=colour, width=2)
    else:
        draw.polygon([(x + side * 5, y - 5), (x + side * 5, y + 5), (x + side * 10, y)], fill=colour)
    return image


def arrays(images):
    return np.stack([np.asarray(image, np.float32) for image in images])


def test_arrows_are_not_mirrored_and_crosses_are():
    labels = np.arange(80) % 2
    arrows = arrays(arrow(number, 2 * (number % 2) - 1) for number in range(80))
    told = judge(arrows, labels, ["a", "b"])
    assert not told.allowed
    assert "mirrored images look unlike their class: of 80 images" in told.reason
    both = arrays(arrow(number, 2 * (number // 2 % 2) - 1, kind=number % 2) for number in range(80))
    assert judge(both, labels, ["arrow", "cross"]).allowed
    noise = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3)).astype(np.float32)
    assert judge(noise, labels, ["a", "b"]).allowed


def test_two_classes_of_many_that_swap_are_named():
    colours = np.random.default_rng(0).integers(0, 256, (10, 3))
    plain = [Image.new("RGB", (32, 32), tuple(colour)) for colour in colours.tolist() for _ in range(20)]
    arrows = [arrow(number, 2 * (number % 2) - 1) for number in range(40)]
    labels = np.array([*np.repeat(np.arange(10), 20), *(10 + np.arange(40) % 2)])
    told = judge(arrays([*plain, *arrows]), labels, [*map(str, range(10)), "to", "fro"])
    assert told == (False, "classes that swap when mirrored: 'to', 'fro'")


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["stop", "turn_left", "turn_right"], ("turn_left", "turn_right")),
        (["KneeLeft", "KneeRight"], ("KneeLeft", "KneeRight")),
        (["eye L", "eye R"], ("eye L", "eye R")),
        (["Pfeil rechts", "Pfeil links"], ("Pfeil links", "Pfeil rechts")),
        (["gauche", "droite"], ("gauche", "droite")),
        (["左折", "右折"], ("左折", "右折")),
        (["leftover", "copyright"], ()),
        (["left", "up"], ()),
    ],
)
def test_names_that_tell_left_from_right(names, pair):
    assert names_of_sides(names) == pair


@pytest.mark.parametrize("signs", [True, False])
def test_a_recipe_says_whether_it_mirrors_and_why(tmp_path: Path, signs: bool) -> None:
    for number in range(64):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        arrow(number, 2 * (number % 2) - 1, kind=0 if signs else number % 2).save(path)
    config = small_data(opened(str(tmp_path)))
    (line,) = (line for line in config.choices if line.startswith("horizontal flip: "))
    assert config.augmentation.horizontal_flip != signs
    assert line.startswith(f"horizontal flip: {'off' if signs else 'on'}, mirrored images look")
