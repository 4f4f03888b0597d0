"""An image on standard input, and addresses, which are never fetched."""

import io
import json
import sys

import pytest

from coatnet.classifier import Classifier
from coatnet.cli import main
from coatnet.data.images import ImageLimits


@pytest.fixture
def send(monkeypatch):
    """Put bytes on standard input."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_reads_an_image_from_standard_input_among_others(tiny_classifier, image_folder, capsys, send):
    first, second = image_folder / "circle" / "0.png", image_folder / "cross" / "0.png"
    send(first.read_bytes())
    assert main(["predict", str(tiny_classifier), str(second), "-", "--json", "--runtime", "torch"]) == 0
    answers = lines(capsys)
    assert [answer["image"] for answer in answers] == [str(second), "-"]
    expected = Classifier.load(tiny_classifier, "cpu").predict(first)
    assert answers[1]["probability"] == pytest.approx(expected.probability, abs=1e-3)
    assert answers[1]["label"] == expected.label


def test_explain_names_its_file_after_standard_input(tiny_classifier, image_folder, tmp_path, send):
    send((image_folder / "circle" / "0.png").read_bytes())
    words = ["explain", str(tiny_classifier), "-", "--format", "overlay", "--method", "grad_cam"]
    assert main([*words, "--out", str(tmp_path / "maps")]) == 0
    assert [file.name for file in (tmp_path / "maps").iterdir()] == ["stdin.png"]


@pytest.mark.parametrize(("data", "code"), [(b"", "empty"), (b"text", "unsupported_format"), (None, "too_large_bytes")])
def test_what_is_sent_passes_the_gate_of_images(tiny_classifier, capsys, send, data, code):
    send(bytes(ImageLimits().max_bytes + 2) if data is None else data)
    assert main(["predict", str(tiny_classifier), "-", "--json", "--runtime", "torch"]) == 3
    assert lines(capsys)[0]["error"]["code"] == code


def test_standard_input_that_cannot_be_read_is_told(tiny_classifier, capsys, monkeypatch, send):
    send(b"")
    assert main(["predict", str(tiny_classifier), "-", "-"]) == 2
    assert "- is given 2 times" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["predict", str(tiny_classifier), "-"]) == 2
    assert "write - < IMAGE" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_an_address_is_told_with_what_to_do_instead(tiny_classifier, capsys, verb):
    assert main([verb, str(tiny_classifier), "https://example.org/a//b.jpg"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("coatnet: https://example.org/a/b.jpg is an address; only files are read\n")
    assert "| coatnet predict CLASSIFIER -" in error


@pytest.mark.parametrize("verb", ["predict", "doctor", "serve"])
def test_an_address_is_no_classifier(capsys, verb):
    assert main([verb, "http://example.org/model", *(["a.png"] if verb == "predict" else [])]) == 4
    assert "http://example.org/model is an address" in capsys.readouterr().err
