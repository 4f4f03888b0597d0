"""The PNG files are read back: their size, and pixels that only a drawn thing can have."""

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from coatnet.pages.plots import Panel, Series, confusion, curves, mosaic, panels, reliability, shortened


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def num_near(picture, colour, tolerance=12):
    return int((np.abs(picture - np.array(colour)).max(axis=-1) <= tolerance).sum())


BLUE, VERMILION = (0, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
DARK = (8, 48, 107)  # the end of the map Blues: a class that is always right


def test_curves_draw_every_line_in_its_own_colour(tmp_path):
    steps = list(range(0, 200, 10))
    losses = [
        Series(name="training", x=steps, y=[2 / (1 + s) for s in steps]),
        Series(name="validation", x=steps, y=[1.0] * 20),
    ]
    curves(tmp_path / "plots" / "a.png", losses, [Series(name="top1", x=steps, y=[s / 200 for s in steps])])
    both = pixels(tmp_path / "plots" / "a.png")
    assert num_near(both, BLUE) > 300
    assert num_near(both, VERMILION) > 300
    curves(tmp_path / "b.png", losses[:1])
    alone = pixels(tmp_path / "b.png")
    assert num_near(alone, VERMILION) == 0
    assert alone.shape[0] < both.shape[0]


def test_curves_smooth_a_long_noisy_line(tmp_path):
    noise = np.random.default_rng(0).normal(size=2000)
    curves(tmp_path / "long.png", [Series(name="training", x=range(2000), y=5 + noise)])
    curves(tmp_path / "short.png", [Series(name="training", x=range(250), y=5 + noise[:250])])
    assert num_near(pixels(tmp_path / "long.png"), BLUE) < num_near(pixels(tmp_path / "short.png"), BLUE) / 2


@pytest.mark.parametrize("values", [[], [1.0], [float("nan"), 2.0], [0.0, 0.0]])
def test_curves_of_few_or_odd_values_are_drawn(tmp_path, values):
    curves(tmp_path / "a.png", [Series(name="training", x=range(len(values)), y=values)])
    assert pixels(tmp_path / "a.png").size


@pytest.mark.parametrize("num_classes", [1, 2, 20, 21, 51, 100])
def test_confusion_of_any_number_of_classes(tmp_path, num_classes):
    matrix = np.eye(num_classes, dtype=int) * 9
    confusion(tmp_path / "a.png", matrix, [f"a long class name {i}" for i in range(num_classes)])
    picture = pixels(tmp_path / "a.png")
    assert max(picture.shape) < 2000
    assert num_near(picture, DARK) > 500


def test_confusion_writes_counts_only_where_they_can_be_read(tmp_path):
    def whites_on_the_diagonal(num_classes):
        path = tmp_path / f"{num_classes}.png"
        confusion(path, np.eye(num_classes, dtype=int) * 8, [str(i) for i in range(num_classes)])
        picture = pixels(path)
        dark = np.abs(picture - np.array(DARK)).max(axis=-1) < 12
        rows = np.flatnonzero(dark[:, : dark.shape[1] * 3 // 4].any(axis=1))
        cell = (rows[-1] - rows[0] + 1) // num_classes
        columns = np.flatnonzero(dark[rows[0] + 2])
        inside = picture[rows[0] + 2 : rows[0] + cell - 2, columns[0] + 2 : columns[0] + cell - 2]
        return num_near(inside, (255, 255, 255))

    assert whites_on_the_diagonal(20) > 0
    assert whites_on_the_diagonal(21) == 0


@pytest.mark.parametrize("num_classes", [2, 10, 20, 30, 60])
def test_confusion_cuts_no_text_off(tmp_path, num_classes):
    names = [str(position) for position in range(num_classes)]
    confusion(tmp_path / "c.png", np.eye(num_classes, dtype=int) * 39, names)
    picture = pixels(tmp_path / "c.png")
    assert min(edge.min() for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1])) == 255


def test_confusion_colours_the_fraction_of_the_true_class(tmp_path):
    confusion(tmp_path / "a.png", np.array([[1, 0], [0, 1000]]), "ab")
    confusion(tmp_path / "b.png", np.eye(2, dtype=int), "ab")
    a, b = (num_near(pixels(tmp_path / name), DARK) for name in ("a.png", "b.png"))
    assert a == pytest.approx(b, rel=0.02)
    assert a > 10_000


def test_reliability_with_empty_bins(tmp_path):
    bins = [(0.0, 0.5, 0, None, None), (0.5, 1.0, 7, 0.9, 0.8)]
    reliability(tmp_path / "a.png", bins, 0.1)
    reliability(tmp_path / "none.png", [(0.0, 1.0, 0, None, None)], 0.0)
    assert num_near(pixels(tmp_path / "a.png"), BLUE, 20) > num_near(pixels(tmp_path / "none.png"), BLUE, 20)


def test_mosaic_shows_the_images_themselves(tmp_path):
    red, green = (np.full((20, 30, 3), colour, np.uint8) for colour in ((200, 10, 10), (10, 200, 10)))
    mosaic(tmp_path / "a.png", [red, green] * 4, ["one\ntwo"] * 8, "answers")
    picture = pixels(tmp_path / "a.png")
    assert num_near(picture, (200, 10, 10), 3) == pytest.approx(num_near(picture, (10, 200, 10), 3), rel=0.05)
    assert num_near(picture, (200, 10, 10), 3) > 20_000


def test_names_may_hold_any_character(tmp_path):
    odd = ["$x_{$", "猫", "a\tb", "<b>", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion(tmp_path / "a.png", np.eye(5, dtype=int), odd)
        mosaic(tmp_path / "b.png", [np.zeros((9, 9, 3), np.uint8)] * 5, odd, "$^$")
        curves(tmp_path / "c.png", [Series(name="$^$", x=[1], y=[1])])


def test_shortened_keeps_both_ends():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abcd…ghijk"
    assert len(shortened("x" * 99, 10)) == 10


def test_plots_leave_no_global_state(tmp_path):
    code = (
        "import sys; from pathlib import Path; from coatnet.pages.plots import curves; "
        "curves(Path(sys.argv[1]), []); print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_panels_share_colours_and_one_legend(tmp_path):
    first = [Series(name="random", x=[0, 1], y=[0.2, 0.4]), Series(name="map", x=[0, 1], y=[0.9, 0.1])]
    shown = [Panel(title=title, x="x", y="y", series=first) for title in ("deletion", "insertion")]
    panels(tmp_path / "a.png", shown)
    both = pixels(tmp_path / "a.png")
    panels(tmp_path / "b.png", [Panel(title="", x="", y="", series=first[:1])])
    alone = pixels(tmp_path / "b.png")
    half = both.shape[1] // 2
    assert min(num_near(both[:, :half], VERMILION), num_near(both[:, half:], VERMILION)) > 100
    assert num_near(alone, VERMILION) == 0


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, after they were."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **named: (figures.append(self), save(self, *given, **named))
    )
    return figures


def test_texts_beside_points_cover_neither_points_nor_each_other(tmp_path, drawn):
    x, y = [0.31, 0.32, 0.32, 0.32, 0.37, 0.1, 11.7, 167.0], [29.0, 29.2, 32.0, 36.0, 40.0, 33.0, 29.0, 86.0]
    names = ["ViT", "CTTT", "CCTT", "CCCT", "timm/test_resnet", "timm/test_efficientnet", "timm/cait", "CoAtNet-3"]
    panel = Panel(title="", x="x", y="y", series=[Series(name="a", x=x, y=y)], labels=[names], log_x=True)
    panels(tmp_path / "a.png", [panel])
    axes = drawn[0].axes[0]
    texts = axes.texts
    drawn[0].draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in texts]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.contains(*place) for box in boxes for place in axes.transData.transform(np.column_stack([x, y])))
    assert all(axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 for box in boxes)


@pytest.mark.parametrize(
    ("y", "told"), [([1.5, 2.3], {"1.6", "2"}), ([0.1, 3.0], {"0.1", "0.5", "2"}), ([1e-3, 9.0], {"0.01", "1"})]
)
def test_logarithmic_axes_have_plain_numbers_apart(tmp_path, drawn, y, told):
    line = Series(name="a", x=y, y=y)
    panels(tmp_path / "a.png", [Panel(title="", x="x", y="y", series=[line], log_x=True, log_y=True)])
    drawn[0].draw_without_rendering()
    axes = drawn[0].axes[0]
    labels = [text for text in (*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)) if text.get_text()]
    assert told <= {text.get_text() for text in labels}
    assert not any("$" in text.get_text() for text in labels)
    boxes = [text.get_window_extent() for text in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
