"""Hostile model files: nothing in them runs, nothing is loaded wrongly, and each is refused with exit code 4."""

import hashlib
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

import hostile
from coatnet.cli import main
from coatnet.model.family import create_model
from coatnet.model.weights import save_weights


def refused(words, capsys):
    """Exit code 4, in one line and a hint."""
    code = main([str(word) for word in words])
    told = capsys.readouterr().err
    assert code == 4, (words, code, told)
    assert len(told.splitlines()) == 2, told
    assert "Traceback" not in told
    return told


def train_from(path):
    return ["train", "digits", "--init", path, "--model", "coatnet_mini_32", "--device", "cpu"]


def test_files_that_would_run_code(tmp_path, capsys):
    marker = tmp_path / "marker"
    made = hostile.pickles(tmp_path, marker)
    assert len(made) >= 18
    pickle.loads((tmp_path / "bare_open.pth").read_bytes())["weight"].close()
    assert marker.exists()  # the payload is live
    marker.unlink()
    for path in made:
        told = refused(train_from(path), capsys)
        assert f"{path} is refused" in told
        assert not marker.exists(), path


def test_archives_that_point_outside_or_grow(tmp_path, capsys):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in hostile.archives(tmp_path / "a" / "b"):
        assert f"{path} is refused" in refused(train_from(path), capsys)
    assert [path.name for path in tmp_path.rglob("*slipped*")] == []


def test_headers_that_lie(tmp_path, capsys):
    made = hostile.headers(tmp_path)
    assert len(made) >= 24
    for path in made:
        assert f"{path} is not a whole safetensors file" in refused(train_from(path), capsys)


def test_a_type_that_is_exchanged_is_no_silent_load(tmp_path, capsys, monkeypatch):
    """The same bytes read as whole numbers: every length still agrees."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    save_weights(create_model("coatnet_mini_32", num_classes=10), path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["stem.reduce.weight"]["dtype"] = "I32"
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(data[:8] + text + data[8 + length :])
    assert load_file(path)["stem.reduce.weight"].dtype == torch.int32  # the library sees nothing wrong
    assert "stem.reduce.weight" in refused([*train_from(path), "--steps", 1], capsys)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def signed(tmp_path, tiny_classifier):
    """A way to change a file of a classifier folder and to sign it anew, as someone who means harm would."""

    def change(file, edit):
        folder = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_classifier, folder)
        path = folder / file
        text = edit(json.loads(path.read_text()))
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        proof = json.loads((folder / "fingerprint.json").read_text())
        if file in proof["files"]:
            proof["files"][file] = hashlib.sha256(path.read_bytes()).hexdigest()
            (folder / "fingerprint.json").write_text(json.dumps(proof))
        return folder

    return change


def of_model(**changes):
    return lambda record: {**record, "model": {**record["model"], **changes}}


def of_stage(**changes):
    def edit(record):
        stages = [dict(stage) for stage in record["model"]["stages"]]
        stages[0].update(changes)
        return {**record, "model": {**record["model"], "stages": stages}}

    return edit


BOMBS = {
    "deep": ("config.json", lambda record: '{"model":' * 200_000),
    "deep list": ("labels.json", lambda record: "[" * 1_000_000),
    "large": ("config.json", lambda record: json.dumps({**record, "coatnet": "x" * 17_000_000})),
    "huge number": ("config.json", lambda record: '{"format": ' + "9" * 100_000 + "}"),
    "a billion blocks": ("config.json", of_stage(depth=10**9)),
    "wide": ("config.json", of_stage(width=10**9)),
    "wider than a float": ("config.json", of_stage(width=10**400)),
    "many stages": ("config.json", of_model(stages=[{"block": "C", "depth": 1, "width": 8}] * 5000)),
    "large tables": ("config.json", of_model(image_size=10**9)),
    "many classes": ("config.json", of_model(num_classes=10**12)),
    "expansion without end": ("config.json", of_model(expansion=1e308)),
    "expansion to nothing": ("config.json", of_model(expansion=1e-9)),
    "large stem": ("config.json", of_model(stem_width=10**7)),
    "other channels": ("config.json", of_model(input_channels=4)),
    "not a number": ("config.json", lambda record: json.dumps(of_model(expansion=float("nan"))(record))),
    "large input": ("preprocess.json", lambda record: {**record, "image_size": [100_000, 100_000]}),
    "no input": ("preprocess.json", lambda record: {**record, "image_size": [0, 0]}),
    "a million classes of one name": ("labels.json", lambda record: {"labels": ["a"] * 1_000_000}),
    "half a character": ("labels.json", lambda record: '{"labels": ["\\ud800", "b", "c"]}'),
    "long proof": ("fingerprint.json", lambda record: {**record, "input": [0.0] * 1_000_000}),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_bombs_in_the_json_of_a_folder(name, signed, image_folder, capsys):
    folder = signed(*BOMBS[name])
    refused(["predict", folder, image_folder / "cross" / "0.png", "--device", "cpu"], capsys)
    refused(["train", image_folder, "--init", folder, "--steps", 1, "--out", folder / "run"], capsys)


def test_headers_that_lie_in_a_folder(tmp_path, tiny_classifier, image_folder, capsys):
    folder = tmp_path / "folder"
    shutil.copytree(tiny_classifier, folder)
    proof = json.loads((folder / "fingerprint.json").read_text())
    (tmp_path / "headers").mkdir()
    for path in hostile.headers(tmp_path / "headers"):
        shutil.copy(path, folder / "model.safetensors")
        proof["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "fingerprint.json").write_text(json.dumps(proof))
        refused(["predict", folder, image_folder / "cross" / "0.png", "--device", "cpu"], capsys)


def test_a_whole_folder_still_works(signed, image_folder, capsys):
    folder = signed("labels.json", lambda record: record)
    assert main(["predict", str(folder), str(image_folder / "cross" / "0.png"), "--device", "cpu"]) == 0
