"""What programs without coatnet find in the files of networks."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from PIL import Image

from coatnet.classifier import Classifier
from coatnet.classifier.artefact import Artefact
from coatnet.data.preprocess import Preprocess
from coatnet.export.export import export
from coatnet.model.family import create_model
from coatnet.version import __version__

NAMES = ("crème brûlée", 'a "b" <c> & d', "line\nbreak, comma")


@pytest.fixture(scope="module")
def classifier(tiny_config) -> Classifier:
    preprocess = Preprocess(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear")
    return Classifier(create_model(tiny_config), preprocess, NAMES)


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torch"])
def test_files_tell_what_they_need_and_no_more(kind, classifier, tmp_path):
    pixels = kind != "torch"
    export(classifier, tmp_path / "out", kind, pixels=pixels, source="0" * 64, licence="apache-2.0")
    files = [path for path in (tmp_path / "out").iterdir() if path.suffix != ".json"]
    assert set(Artefact.read(tmp_path / "out").record.files) == {path.name for path in files}
    for path in files:
        assert not re.search(rb'site-packages|\.py\b|File \\*"', path.read_bytes()), path
    if kind == "torch":
        return
    told = facts(next(path for path in files if path.name in ("32x32.onnx", "32x32.xml")), "logits")
    assert json.loads(told["class_names"]) == list(NAMES)
    assert json.loads(told["mean"]) == [0.5, 0.4, 0.3]
    assert json.loads(told["std"]) == [0.2, 0.3, 0.4]
    assert json.loads(told["image_size"]) == [32, 32]
    assert (told["resize"], told["interpolation"], told["license"]) == ("crop", "bilinear", "apache-2.0")
    assert told["coatnet_version"] == __version__
    graph = facts(
        next(path for path in files if path.name in ("pixels-32x32.onnx", "pixels-32x32.xml")), "probabilities"
    )
    assert "mean" not in graph  # a program that used it would normalise twice
    assert json.loads(graph["class_names"]) == list(NAMES)


def test_the_examples_of_the_page_run(classifier, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    export(classifier, tmp_path / "exports" / "demo", "onnx", pixels=True)
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    told = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(example.replace("BICUBIC", "BILINEAR"), "export.md", "exec"), told)
    expected = classifier.predict(image)
    assert told["names"][told["probabilities"].argmax()] == expected.label
    assert told["probabilities"].max() == pytest.approx(expected.probability, abs=1e-4)
    assert capsys.readouterr().out.count(expected.label) == 2


def facts(path, output) -> dict[str, str]:
    if path.suffix == ".onnx":
        model = onnx.load(path)
        shapes = [
            [side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim]
            for one in (*model.graph.input, *model.graph.output)
        ]
        assert [one.name for one in (*model.graph.input, *model.graph.output)] == ["images", output]
        assert [shape[0] for shape in shapes] == ["batch", "batch"]
        assert not any(node.metadata_props for node in model.graph.node)
        return {entry.key: entry.value for entry in model.metadata_props}
    model = openvino.Core().read_model(path)
    assert (model.input(0).names, model.output(0).names) == ({"images"}, {output})
    return {name: one.astype(str) for name, one in model.get_rt_info()["coatnet"].items()}
