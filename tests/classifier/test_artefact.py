"""Conversions and artefacts: the same answers from every runtime, without torch, and nothing hostile is opened."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cli.drawn import draw_classes
from coatnet.classifier import Classifier
from coatnet.classifier.artefact import Artefact
from coatnet.classifier.folder import sha256
from coatnet.cli import main
from coatnet.data.user_cache import cache_folder
from coatnet.errors import ConfigError, ModelFileError
from coatnet.export.export import export
from coatnet.runtime.exported_engine import check_program
from coatnet.runtime.onnx_engine import check_onnx

KINDS = ("onnx", "openvino", "torch")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (13, 40, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def artefacts(tiny_classifier, tmp_path_factory) -> dict[str, Path]:
    """The tiny classifier in every form. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("artefacts")
    for kind in KINDS:
        export(
            Classifier.load(tiny_classifier, "cpu"),
            folder / kind,
            kind,
            sizes=[SIZE, (45, 64)] if kind == "onnx" else [SIZE],
        )
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("drawn") / "shapes")


# --- the same answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_an_artefact_gives_the_logits_of_the_classifier(kind, count, artefacts, tiny_classifier, images):
    expected = Classifier.load(tiny_classifier, "cpu").logits(images[:count])
    found = Classifier.load(artefacts[kind], precision="float32").logits(images[:count])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_another_size_of_the_artefact(artefacts, tiny_classifier, images):
    expected = Classifier.load(tiny_classifier, "cpu").at_size((45, 64)).logits(images[:3])
    found = Classifier.load(artefacts["onnx"], image_size=(45, 64))
    assert found.preprocess.image_size == (45, 64)
    np.testing.assert_allclose(found.logits(images[:3]), expected, atol=1e-4)
    with pytest.raises(ConfigError, match="was exported for 32x32, 45x64"):
        Classifier.load(artefacts["onnx"], image_size=(96, 96))


def test_a_converted_classifier_stays_at_its_size(artefacts):
    with pytest.raises(ConfigError, match="made for 32x32"):
        Classifier.load(artefacts["onnx"]).at_size((64, 64))


@pytest.mark.parametrize("runtime", ["onnx", "auto"])
def test_a_classifier_folder_is_converted_once(runtime, tiny_classifier, tmp_path, images, monkeypatch):
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    expected = Classifier.load(folder, "cpu").logits(images)
    found = Classifier.load(folder, runtime=runtime)
    np.testing.assert_allclose(found.logits(images), expected, atol=1e-4)
    made = {path: path.stat().st_mtime_ns for path in (folder / "converted").rglob("*")}
    monkeypatch.setattr("coatnet.classifier.opening.build_network", None)  # another conversion would fail
    np.testing.assert_array_equal(Classifier.load(folder, runtime=runtime).logits(images), found.logits(images))
    assert {path: path.stat().st_mtime_ns for path in (folder / "converted").rglob("*")} == made


def test_a_damaged_conversion_is_made_again(tiny_classifier, tmp_path, images):
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    expected = Classifier.load(folder, runtime="onnx").logits(images)
    file = next((folder / "converted").rglob("*.onnx"))
    file.write_bytes(file.read_bytes()[:-100])
    np.testing.assert_array_equal(Classifier.load(folder, runtime="onnx").logits(images), expected)


def test_a_conversion_does_not_hide_a_fingerprint_that_is_wrong(tiny_classifier, tmp_path):
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    Classifier.load(folder, runtime="onnx")
    record = json.loads((folder / "fingerprint.json").read_text())
    (folder / "fingerprint.json").write_text(json.dumps({**record, "logits": record["logits"][::-1]}))
    with pytest.raises(ModelFileError, match="do not give the logits"):
        Classifier.load(folder, runtime="onnx")


def test_a_folder_that_cannot_be_written_is_converted_in_the_users_cache(
    tiny_classifier, tmp_path, images, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # other tests shall not find the conversion
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    (folder / "converted").touch()  # no folder can be made here, whoever runs the tests
    expected = Classifier.load(folder, "cpu").logits(images)
    np.testing.assert_allclose(Classifier.load(folder, runtime="onnx").logits(images), expected, atol=1e-4)
    assert (folder / "converted").is_file()
    assert list(cache_folder("converted").glob("onnx-32x32-*/32x32.onnx"))


def test_other_weights_are_converted_anew(tiny_classifier, tmp_path, images):
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    before = Classifier.load(folder, runtime="onnx").logits(images)
    changed = Classifier.load(folder, "cpu")
    with torch.no_grad():
        changed.engine.model.head.classes.bias.add_(torch.tensor([1.0, 2.0, 3.0]))
    changed.save(folder)
    after = Classifier.load(folder, runtime="onnx").logits(images)
    np.testing.assert_allclose(after, before + np.array([1, 2, 3]), atol=1e-4)
    assert len(list((folder / "converted").iterdir())) == 1


def test_bfloat16_is_taken_where_the_cpu_has_it(tiny_classifier, artefacts, images):
    from coatnet.runtime.openvino_engine import has_bfloat16

    found = Classifier.load(artefacts["openvino"], precision="auto")
    assert found.engine.description == f"OpenVINO, {'bfloat16' if has_bfloat16() else 'float32'}"
    exact = Classifier.load(tiny_classifier, "cpu").logits(images)
    assert np.abs(found.logits(images) - exact).max() < 0.1 * exact.std()


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_predict_imports_no_torch(kind, artefacts, tiny_classifier, drawn):
    images = sorted(drawn.rglob("*.png"))[:2]
    code = "import sys; sys.modules['torch'] = None; from coatnet.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["predict", artefacts[kind], *images, "--json", "--precision", "float32"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    expected = Classifier.load(tiny_classifier, "cpu").predict(list(images))
    for answer, one in zip(answers, expected, strict=True):
        assert answer["label"] == one.label
        assert answer["probability"] == pytest.approx(one.probability, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_takes_an_artefact(kind, artefacts, tiny_classifier, drawn, capsys):
    scores = []
    for path in (tiny_classifier, artefacts[kind]):
        runtime = ["--runtime", "torch"] if path == tiny_classifier else []
        assert main(["evaluate", str(path), str(drawn), "--json", *runtime]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0]["top1"] == scores[1]["top1"]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-4)


# --- options that do not go together ---------------------------------------------------------------------------------


def test_an_artefact_runs_in_its_own_runtime(artefacts):
    with pytest.raises(ConfigError, match="is an artefact of onnx"):
        Classifier.load(artefacts["onnx"], runtime="openvino")
    with pytest.raises(ConfigError, match="runs on the CPU"):
        Classifier.load(artefacts["onnx"], device="cuda")
    with pytest.raises(ConfigError, match="bfloat16 is not for onnx"):
        Classifier.load(artefacts["onnx"], precision="bfloat16")


# --- hostile and damaged ---------------------------------------------------------------------------------------------


def rewritten(folder, name, data):
    """Exchange a file of an artefact and make every checksum agree again, as an attacker would."""
    (folder / name).write_bytes(data)
    record = json.loads((folder / "artefact.json").read_text())
    record["files"][name] = sha256(folder / name)
    (folder / "artefact.json").write_text(json.dumps(record))
    proof = json.loads((folder / "fingerprint.json").read_text())
    proof["files"]["artefact.json"] = sha256(folder / "artefact.json")
    (folder / "fingerprint.json").write_text(json.dumps(proof))


def refused(path, capsys):
    assert main(["predict", str(path), __file__]) == 4
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 2
    return told


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname", "link", "32x32.onnx.data", "sub/secret", ""])
def test_onnx_files_that_read_elsewhere(place, artefacts, tmp_path, capsys):
    folder = shutil.copytree(artefacts["onnx"], tmp_path / "artefact")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100_000))
    (folder / "link").symlink_to(secret)
    if place.endswith(".data"):
        (folder / place).symlink_to(secret)
    model = onnx.load(folder / "32x32.onnx")
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    rewritten(folder, "32x32.onnx", model.SerializeToString())
    refused(folder, capsys)
    if place == "32x32.onnx.data":
        return  # its own, which a link may stand for; what it leads to is not the checksum's
    with pytest.raises(ModelFileError, match="takes tensors from"):
        check_onnx(folder / "32x32.onnx")


def test_external_tensors_hidden_in_a_subgraph(artefacts, tmp_path):
    model = onnx.load(artefacts["onnx"] / "32x32.onnx")
    inner = onnx.helper.make_tensor("hidden", onnx.TensorProto.FLOAT, [1], [0.0])
    inner.data_location = onnx.TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="../secret")
    graph = onnx.helper.make_graph([], "inner", [], [], [inner])
    node = onnx.helper.make_node("If", ["condition"], ["out"], then_branch=graph, else_branch=graph)
    model.graph.node.append(node)
    (tmp_path / "hidden.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"takes tensors from '\.\./secret'"):
        check_onnx(tmp_path / "hidden.onnx")


def test_files_that_are_something_else(artefacts, tmp_path, capsys):
    for kind, name in (("onnx", "32x32.onnx"), ("openvino", "32x32.xml"), ("torch", "32x32.pt2")):
        folder = shutil.copytree(artefacts[kind], tmp_path / kind)
        rewritten(folder, name, b"no network at all" * 50)
        assert "is refused" in refused(folder, capsys)


def repacked(source, target, change):
    """A copy of an archive, each member as `change(name, data)` gives it; None leaves it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
        root = old.namelist()[0].partition("/")[0]
    return root


class Payload:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def hostile_programs(source, folder, marker):
    """Exported programs that would run code when torch.export.load reads them."""
    import io

    buffer = io.BytesIO()
    torch.save({"inputs": Payload(marker)}, buffer)
    code = f"__import__('os').system('touch {marker}')"

    def in_graph(old, new):
        return lambda name, data: data.replace(old, new) if name.endswith("model.json") else data

    changes = {
        "pickled inputs": lambda name, data: buffer.getvalue() if name.endswith("sample_inputs/model.pt") else data,
        "expression": in_graph(b"Symbol('s", code.encode() + b" or Symbol('s"),
        "operator": in_graph(b"torch.ops.aten.linear.default", b"torch.serialization.os.system"),
        "reads a file": in_graph(b"torch.ops.aten.linear.default", b"torch.ops.aten.from_file.default"),
        "guards": in_graph(b'"guards_code": []', f'"guards_code": ["{code}"]'.encode()),
        "pickled weights": lambda name, data: (
            data.replace(b'"use_pickle": false', b'"use_pickle": true')
            if name.endswith("weights_config.json")
            else data
        ),
        "no graph": lambda name, data: None if name.endswith("models/model.json") else data,
    }
    for title, change in changes.items():
        path = folder / f"{title}.pt2"
        repacked(source, path, change)
        yield path
    for name in ("data/aotinductor/model/run.so", "data/constants/custom_obj_0", "version", "../slipped"):
        path = folder / f"{Path(name).name} added.pt2"
        root = repacked(source, path, lambda name, data: data)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{root}/{name}", buffer.getvalue())
        yield path
    legacy = folder / "legacy.pt2"
    with zipfile.ZipFile(legacy, "w") as archive:
        archive.writestr("version", "8.20")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", buffer.getvalue())
    yield legacy


def test_exported_programs_that_would_run_code(artefacts, tmp_path, capsys):
    marker = tmp_path / "marker"
    source = artefacts["torch"] / "32x32.pt2"
    check_program(source)
    made = list(hostile_programs(source, tmp_path, marker))
    assert len(made) == 12
    for path in made:
        assert path.read_bytes() != source.read_bytes()
        with pytest.raises(ModelFileError, match="is refused"):
            check_program(path)
        folder = shutil.copytree(artefacts["torch"], tmp_path / f"{path.stem} folder")
        rewritten(folder, "32x32.pt2", path.read_bytes())
        refused(folder, capsys)
    assert not marker.exists()


def test_names_and_links_that_lead_outside(artefacts, tmp_path, capsys):
    for number, name in enumerate(("../32x32.onnx", "/etc/hostname", "sub/32x32.onnx", "32x32.so")):
        folder = shutil.copytree(artefacts["onnx"], tmp_path / str(number))
        text = (folder / "artefact.json").read_text().replace("32x32.onnx", name)
        rewritten(folder, "artefact.json", text.encode())
        refused(folder, capsys)
    folder = shutil.copytree(artefacts["openvino"], tmp_path / "linked")
    outside = shutil.copy(folder / "32x32.xml", tmp_path / "outside")
    (folder / "32x32.bin").unlink()
    (folder / "32x32.bin").symlink_to(outside)
    assert "damaged or was exchanged" in refused(folder, capsys)
    (folder / "32x32.bin").unlink()
    assert "is missing" in refused(folder, capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_links_is_read(kind, artefacts, tmp_path, images):
    """The cache of the hub is one: its files are links to others that are called by their checksums."""
    (tmp_path / "blobs").mkdir()
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for path in artefacts[kind].iterdir():
        shutil.copy(path, tmp_path / "blobs" / sha256(path))
        (folder / path.name).symlink_to(Path("..", "blobs", sha256(path)))
    expected = Classifier.load(artefacts[kind]).logits(images)
    np.testing.assert_array_equal(Classifier.load(folder).logits(images), expected)


@pytest.mark.parametrize("name", ["artefact.json", "labels.json", "preprocess.json", "32x32.onnx"])
def test_every_file_is_proved(name, artefacts, tmp_path):
    folder = shutil.copytree(artefacts["onnx"], tmp_path / "artefact")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b"e", b"o", 1))
    with pytest.raises(ModelFileError, match="damaged or was exchanged"):
        Artefact.read(folder)


def test_a_network_of_other_weights_is_seen(artefacts, tiny_config, tmp_path, capsys):
    torch.manual_seed(1)
    from coatnet.model.family import create_model

    names = ("circle", "cross", "square")
    export(Classifier(create_model(tiny_config), class_names=names), tmp_path / "other", "onnx", sizes=[SIZE])
    folder = shutil.copytree(artefacts["onnx"], tmp_path / "artefact")
    rewritten(folder, "32x32.onnx", (tmp_path / "other" / "32x32.onnx").read_bytes())
    assert "do not give the logits" in refused(folder, capsys)
