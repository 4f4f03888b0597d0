"""Deletion and insertion on networks whose answer is known."""

import numpy as np
import pytest

from coatnet.classifier import Classifier
from coatnet.data.preprocess import Preprocess
from coatnet.explanation.explain import Explanation, HeatMap, explain
from coatnet.explanation.faithfulness import CELLS, STEPS, area, cell_order, measure, merged, play, resized
from coatnet.explanation.faithfulness_page import COLUMNS, faithfulness_rows, faithfulness_section
from coatnet.runtime.engines import Engine


class Corner(Engine):
    """Says "sharp" as surely as the upper left quarter is far from grey."""

    def logits(self, images):
        sharp = np.abs(images[:, :, : images.shape[2] // 2, : images.shape[3] // 2]).mean((1, 2, 3))
        return np.stack([2 * sharp, np.zeros_like(sharp)], 1).astype(np.float32)


@pytest.fixture
def classifier():
    return Classifier(Corner(), Preprocess(image_size=32, mean=(0.5, 0.5, 0.5)), ("sharp", "grey"))


def explained(*maps):
    """A checkerboard, which blurs to grey."""
    image = np.repeat(255 * (np.indices((32, 32)).sum(0) % 2)[..., None], 3, -1).astype(np.uint8)
    heat_maps = tuple(HeatMap("rollout", layer, np.asarray(values, np.float32)) for layer, values in maps)
    return Explanation(image, "sharp", 0.9, (0, 0), heat_maps, (), {})


RIGHT, WRONG = ("right", [[1, 0], [0, 0]]), ("wrong", [[0, 0.3], [0.5, 1]])
NAMES = ("attention rollout, right", "attention rollout, wrong")


def test_a_right_map_beats_random_and_a_wrong_one_is_labelled(classifier):
    measured = measure(classifier, [explained(RIGHT, WRONG)] * 4)
    right, wrong = NAMES
    assert measured.methods == [right, wrong]
    assert measured.num_images == 4
    assert measured.verdict(right) == "beats random"
    assert measured.verdict(wrong) == "does not beat random"
    assert measured.area(right, "deletion") < measured.area(None, "deletion") < measured.area(wrong, "deletion")
    assert measured.area(right, "insertion") > measured.area(None, "insertion") > measured.area(wrong, "insertion")


def test_the_curve_of_a_deletion_by_hand(classifier):
    """A quarter of the cells, those of the upper left, decide; the mean colour there means 0."""
    order = cell_order(HeatMap("rollout", "", np.array([[1, 0], [0, 0]], np.float32)))
    assert {divmod(cell, CELLS) for cell in order[:9].tolist()} <= {
        (row, column) for row in range(4) for column in range(4)
    }
    inside = [row * CELLS + column for row in range(4) for column in range(4)]
    order = np.array(inside + [cell for cell in range(CELLS * CELLS) if cell not in inside])
    image = explained().image
    curve = play(classifier, image, 0, {"": order}, "deletion")[""]
    assert len(curve) == STEPS + 1
    left = np.clip(1 - np.arange(STEPS + 1) / (STEPS / 4), 0, 1)
    start = 2 * abs(classifier.preprocess.normalized(image[None])).mean()
    np.testing.assert_allclose(curve, 1 / (1 + np.exp(-left * start)), atol=0.01)


def test_insertion_ends_with_the_image_and_deletion_with_none_of_it(classifier):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(CELLS * CELLS)
    deletion, insertion = (play(classifier, image, 0, {"": order}, game)[""] for game in ("deletion", "insertion"))
    probability = classifier.predict(image, top=2).top
    sharp = dict(probability)["sharp"]
    assert deletion[0] == pytest.approx(sharp, rel=1e-5)
    assert insertion[-1] == pytest.approx(sharp, rel=1e-5)
    assert deletion[-1] == pytest.approx(0.5, abs=0.01)


def test_gains_are_paired_by_image_with_an_interval(classifier):
    from scipy import stats

    images = [explained((layer, np.random.default_rng(seed).random((4, 4)))) for seed, layer in enumerate("m" * 12)]
    measured = measure(classifier, images)
    name = measured.methods[0]
    differences = [
        area(baseline) - area(curve)
        for curve, baseline in zip(measured.curves[name, "deletion"], measured.random["deletion"], strict=True)
    ]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    gain = measured.gain(name, "deletion")
    assert (gain.low, gain.high) == pytest.approx(tuple(expected))
    assert gain.mean == pytest.approx(np.mean(differences))
    assert not measured.gain(name, "deletion").beats_random or gain.low > 0


def test_it_is_the_same_every_time_and_parts_add_up(classifier):
    images = [explained(RIGHT, WRONG), explained(WRONG, RIGHT)]
    first, again = measure(classifier, images), measure(classifier, images)
    assert first.as_dict() == again.as_dict()
    both = merged([measure(classifier, images[:1]), measure(classifier, images[1:])])
    assert both.num_images == 2
    assert both.area(NAMES[0], "deletion") == first.area(NAMES[0], "deletion")
    only = merged([measure(classifier, images[:1]), measure(classifier, [explained(RIGHT)])])
    assert only.methods == [NAMES[0]]


def test_areas_and_sizes():
    assert area(np.ones(5)) == 1
    assert area(np.array([1.0, 0.0])) == 0.5
    grown = resized(np.array([[0, 1]], np.float32), (4, 8))
    assert grown.shape == (4, 8)
    assert (np.diff(grown[0]) >= 0).all()
    shrunk = resized(np.arange(16, dtype=np.float32).reshape(4, 4), (1, 1))
    assert shrunk[0, 0] == pytest.approx(7.5)


def test_receptive_fields_are_not_measured(tiny_classifier):
    classifier = Classifier.load(tiny_classifier, device="cpu")
    found = explain(classifier, np.full((32, 32, 3), 90, np.uint8))
    measured = measure(classifier, [found])
    assert measured.methods == ["Grad-CAM, S1", "Grad-CAM, S2", "integrated gradients", "attention rollout"]


def test_the_page_labels_what_does_not_beat_random(classifier, tmp_path):
    many = measure(classifier, [explained(RIGHT, WRONG)] * 3)
    rows = {row[0]: row for row in faithfulness_rows(many)}
    assert all(len(row) == len(COLUMNS) for row in rows.values())
    assert rows[NAMES[1]][-1] == "does not beat random"
    assert rows["random order"][1] == f"{many.area(None, 'deletion'):.3f}"
    section = faithfulness_section(many, tmp_path)
    assert "3 images, paired" in section.text[0]
    assert (tmp_path / "faithfulness.png").stat().st_size > 5000
    one = faithfulness_rows(measure(classifier, [explained(RIGHT, WRONG)]))
    assert [row[-1] for row in one[1:]] == ["", ""]
