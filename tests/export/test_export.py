"""`export`: what it writes, what it refuses to write, and what it says."""

import itertools
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from coatnet.classifier import Classifier
from coatnet.cli import main
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, QualityError
from coatnet.export.export import export
from coatnet.model.family import create_model
from coatnet.runtime.engines import TorchEngine
from runtime.test_folding import FORMS, lively


def test_export_through_the_command_line(tiny_classifier, image_folder, tmp_path, capsys):
    words = ["export", str(tiny_classifier), "--format", "onnx", "--out", str(tmp_path / "out")]
    assert main([*words, "--data", str(image_folder), "--image-size", "32", "--image-size", "40x48", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sizes"] == [[32, 32], [40, 48]]
    assert [one["same_top1"] for one in told["agreements"]] == [1, 1]
    assert not told["generated_images"]
    assert told["agreements"][0]["images"] == 3  # the part that is held out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    records = {"artefact.json", "preprocess.json", "labels.json", "fingerprint.json", "README.md"}
    assert names == {"32x32.onnx", "40x48.onnx", *records}
    stored = json.loads((tiny_classifier / "fingerprint.json").read_text())["sha256"]
    assert json.loads((tmp_path / "out" / "fingerprint.json").read_text())["sha256"] == stored
    assert main(words) == 0  # an artefact is replaced
    assert "generated images" in capsys.readouterr().out
    (tmp_path / "out" / "mine.txt").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").touch()
    assert main([*words[:-1], str(tmp_path / "foreign")]) == 2
    assert "mine.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "form", ["paper", *(pytest.param(form, marks=pytest.mark.slow) for form in (*list(FORMS)[1:], "size 71"))]
)
def test_every_form_of_the_network_becomes_onnx(form, tmp_path):
    model = lively(FORMS.get(form, FORMS["paper"]))
    size = (71, 71) if form == "size 71" else (64, 64)
    names = [str(index) for index in range(5)]
    classifier = Classifier(TorchEngine(model, "cpu"), Preprocess(image_size=size), names)
    done = export(classifier, tmp_path / "out", "onnx")
    assert done.agreements[0].is_exact
    onnx.checker.check_model(tmp_path / "out" / f"{size[0]}x{size[1]}.onnx", full_check=True)
    images = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8)
    found = Classifier.load(tmp_path / "out")
    for batch in (1, 3, 8, 64):
        expected = classifier.logits(images[:batch])
        np.testing.assert_allclose(found.logits(images[:batch]), expected, atol=1e-4)
        assert (found.logits(images[:batch]).argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("kind", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_guest_is_exported(kind, tmp_path):
    torch.manual_seed(0)
    classifier = Classifier(TorchEngine(create_model("timm/resnet10t", num_classes=3), "cpu"))
    done = export(classifier, tmp_path / "out", kind, sizes=[(64, 64)])
    assert done.agreements[0].is_exact


@pytest.mark.parametrize(
    "kind", ["onnx", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("openvino", "torch"))]
)
def test_the_graph_from_pixels_needs_no_coatnet(kind, tiny_classifier, tmp_path):
    classifier = Classifier.load(tiny_classifier, "cpu")
    export(classifier, tmp_path / "out", kind, pixels=True)
    assert "pixels-HEIGHTxWIDTH" in (tmp_path / "out" / "README.md").read_text()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    path = next(path for path in (tmp_path / "out").glob("pixels-32x32.*") if path.suffix != ".bin")
    if kind == "onnx":
        found = onnxruntime.InferenceSession(path).run(None, {"images": pixels})[0]
    elif kind == "openvino":
        import openvino

        found = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)[0]
    else:
        found = torch.export.load(path).module()(torch.from_numpy(pixels)).numpy()
    logits = torch.from_numpy(classifier.logits(pixels))
    np.testing.assert_allclose(found, logits.softmax(1).numpy(), atol=1e-5)


def test_nothing_is_written_without_agreement(tiny_classifier, tmp_path, monkeypatch):
    from coatnet.runtime import conversion

    honest = conversion.inference_form

    def spoiled(model, size):
        folded = honest(model, size)
        with torch.no_grad():
            folded.head.layers[2].bias.add_(torch.tensor([0.0, 0.0, 3e-4]))
        return folded

    monkeypatch.setattr(conversion, "inference_form", spoiled)
    with pytest.raises(QualityError) as caught:
        export(Classifier.load(tiny_classifier, "cpu"), tmp_path / "out", "onnx")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_go_together(tiny_classifier, tmp_path, capsys):
    words = ["export", str(tiny_classifier), "--out", str(tmp_path / "out"), "--format"]
    assert main([*words, "onnx", "--max-drop", "2"]) == 2
    assert main([*words, "openvino", "--int8"]) == 2
    assert "needs --data" in capsys.readouterr().err
    assert main([*words, "tflite"]) == 2
    with pytest.raises(ConfigError, match="image_size 16"):
        export(Classifier.load(tiny_classifier, "cpu"), tmp_path / "out", "onnx", sizes=[(16, 16)])
    with pytest.raises(ConfigError, match="only torch's network"):
        done = export(Classifier.load(tiny_classifier, "cpu"), tmp_path / "out", "onnx")
        export(Classifier.load(done.folder), tmp_path / "again", "onnx")


@pytest.mark.parametrize(
    ("kind", "package", "named"),
    [("onnx", "onnxscript", "onnxscript"), ("openvino", "openvino", "OpenVINO")],
)
def test_a_missing_package_is_named(kind, package, named, tiny_classifier, tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(tiny_classifier), "--format", kind, "--out", str(tmp_path / "out")]) == 5
    told = capsys.readouterr().err
    assert named in told
    assert "pip install '.[export]'" in told


def test_int8_is_refused_where_it_loses_too_much(tiny_classifier, image_folder, tmp_path, capsys, monkeypatch):
    words = ["export", str(tiny_classifier), "--format", "openvino", "--int8", "--data", str(image_folder)]
    assert main([*words, "--out", str(tmp_path / "out"), "--max-drop", "100", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told["drop"], float)
    record = json.loads((tmp_path / "out" / "artefact.json").read_text())
    assert record["int8"]
    found = Classifier.load(tmp_path / "out")
    exact = Classifier.load(tiny_classifier, "cpu")
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    difference = np.abs(found.logits(images) - exact.logits(images)).max()
    assert 0 < difference < exact.logits(images).std()
    assert main(["predict", str(tmp_path / "out"), str(image_folder)]) == 0

    from coatnet.export import quantization

    scores = itertools.chain([0.9], itertools.repeat(0.5))  # exact, then each precision
    honest = quantization.evaluate
    monkeypatch.setattr(quantization, "evaluate", lambda *words: replace(honest(*words), top1=next(scores)))
    assert main([*words, "--out", str(tmp_path / "second")]) == 6
    assert "int8 loses 40.00 points" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_a_module_without_a_config_is_exported_as_it_is(tmp_path):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    classifier = Classifier(TorchEngine(module, "cpu"), Preprocess(image_size=(32, 32)), ("a", "b"))
    assert export(classifier, tmp_path / "out", "onnx").agreements[0].is_exact
