"""The report of a made-up run: its numbers stand in the page, its mosaics show the right images."""

import json

import numpy as np
import pytest
from PIL import Image

from coatnet.evaluation.metrics import Answers, rate
from coatnet.training.report import (
    MOSAIC_SIZE,
    ReportText,
    Sample,
    mosaic_positions,
    per_cent,
    write_report,
)

NAMES = ("rose", "tulip", "daisy")
TEXT = ReportText(
    title="flowers",
    facts={"model": "coatnet_0"},
    choices=["Image size 64, because most images are small."],
    commands=["coatnet predict runs/flowers a.jpg"],
    environment={"torch": "2.15"},
)
METRICS = [
    {"step": 10, "loss": 1.2, "learning_rate": 1e-3, "images_per_second": 1234.0, "wait": 0.02},
    {"step": 10, "evaluation": "val", "top1": 0.4, "loss": 1.1},
    {"step": 20, "loss": 0.7, "learning_rate": 1e-3, "images_per_second": 1234.0, "wait": 0.02},
    {"step": 20, "evaluation": "val", "top1": 0.7, "loss": 0.8},
]


@pytest.fixture
def evaluation():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 60)
    logits = generator.normal(size=(60, 3)) + 2 * np.eye(3)[labels]
    names = [f"{index}.png" for index in range(60)]
    return rate(Answers.of_logits(logits, labels, names), NAMES, split="test", unreadable=[("lost.png", 1)])


def samples_of(evaluation):
    wanted = {position for positions in mosaic_positions(evaluation).values() for position in positions}
    return [Sample(position=p, image=np.full((20, 30, 3), 40 + p, np.uint8)) for p in sorted(wanted)]


def test_mosaics_hold_the_surest_mistakes_and_the_surest_and_least_sure_hits(evaluation):
    positions, answers = mosaic_positions(evaluation, 4), evaluation.answers
    right = answers.predicted == answers.labels
    by_hand = sorted(range(60), key=lambda i: -answers.probability[i])
    assert positions["wrong"] == [i for i in by_hand if not right[i]][:4]
    assert positions["sure"] == [i for i in by_hand if right[i]][:4]
    assert positions["unsure"] == [i for i in reversed(by_hand) if right[i]][:4]
    assert len(mosaic_positions(evaluation)["sure"]) == MOSAIC_SIZE


def test_the_report_says_what_the_evaluation_says(tmp_path, evaluation):
    path = write_report(tmp_path, METRICS, evaluation, samples_of(evaluation), TEXT)
    html = path.read_text()
    assert path == tmp_path / "report.html"
    low, high = evaluation.top1_interval
    for said in [
        f"{per_cent(evaluation.top1)} of the answers are right",
        f"between {per_cent(low)} and {per_cent(high)}",
        "On 61 images of the split “test”",
        "1 image could not be read. It counts as wrong: lost.png.",
        "1,234 images per second",
        f"{evaluation.loss:.3f}",
        *NAMES,
        "coatnet_0",
        TEXT.choices[0],
        TEXT.commands[0],
        "2.15",
    ]:
        assert said in html
    assert html.count("data:image/png;base64,") == 6


def test_plots_are_files_of_their_own(tmp_path, evaluation):
    write_report(tmp_path, METRICS, evaluation, samples_of(evaluation), TEXT)
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["confusion.png", "curves.png", "reliability.png", "sure.png", "unsure.png", "wrong.png"]
    position = mosaic_positions(evaluation)["wrong"][0]
    with Image.open(tmp_path / "plots" / "wrong.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == 40 + position).all(axis=-1).sum() > 1000


def test_a_second_report_replaces_the_first(tmp_path, evaluation):
    write_report(tmp_path, METRICS, evaluation, samples_of(evaluation), TEXT)
    perfect = rate(Answers.of_logits(np.eye(3) * 9, np.arange(3)), NAMES)
    html = write_report(tmp_path, METRICS, perfect, samples_of(perfect), TEXT).read_text()
    assert "100.0 % of the answers are right" in html
    assert "Most common mistakes" not in html
    assert not (tmp_path / "plots" / "wrong.png").exists()


def test_a_report_without_curves_images_or_words(tmp_path, evaluation):
    bare = ReportText(title="x", facts={}, environment={})
    html = write_report(tmp_path, [], evaluation, [], bare).read_text()
    assert "What was chosen" not in html
    assert "Environment" not in html


def test_the_most_common_mistakes_lead(tmp_path):
    labels = np.array([0] * 10 + [1] * 10)
    predicted = np.array([0] * 7 + [2] * 3 + [1] * 9 + [0])
    found = rate(Answers.of_logits(np.eye(3)[predicted], labels), NAMES)
    html = write_report(tmp_path, METRICS, found, [], TEXT).read_text()
    table = html[html.index("Most common mistakes") :]
    first = '<tr><td class="name">rose</td><td class="name">daisy</td><td>3</td><td>30.0 %</td></tr>'
    second = '<tr><td class="name">tulip</td><td class="name">rose</td><td>1</td><td>10.0 %</td></tr>'
    assert 0 < table.index(first) < table.index(second)


def test_metrics_lines_survive_json(tmp_path, evaluation):
    lines = [json.loads(json.dumps(line)) for line in METRICS]
    lines.append({"step": 20, "evaluation": "test", "split": "test", **evaluation.summary()})
    assert write_report(tmp_path, lines, evaluation, [], TEXT).is_file()
