"""`coatnet pack`, and what the other verbs make of its shards."""

import json

import pytest

from cli.drawn import draw_classes
from coatnet.cli import main


def test_pack_and_evaluate(image_folder, tiny_classifier, tmp_path, capsys):
    shards = tmp_path / "shards"
    assert main(["pack", str(image_folder), str(shards), "--size", "32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(shards)
    assert (told["num_images"], told["num_shards"], told["unreadable"]) == (18, 1, [])
    assert sorted(path.name for path in shards.iterdir()) == ["index.parquet", "labels.txt", "shard-000000.tar"]
    assert main(["evaluate", str(tiny_classifier), str(shards), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 18


def test_what_cannot_be_read_is_told(tmp_path, capsys):
    draw_classes(tmp_path / "data")
    (tmp_path / "data" / "cross" / "2.png").write_bytes(b"no image")
    assert main(["pack", str(tmp_path / "data"), str(tmp_path / "shards")]) == 3
    out, error = capsys.readouterr()
    assert "17 images" in out
    assert "unreadable, which are not packed: 1\n  cross/2.png: unsupported_format" in out
    assert "1 images cannot be read and are not in the shards" in error


ERRORS = {
    "pack data": (2, "FOLDER"),
    "pack data data": (2, "not empty"),
    "pack data data/circle/0.png": (2, "is a file"),
    "pack data s3://bucket/x": (2, "not on this machine"),
    "pack nowhere new": (3, "nowhere"),
    "pack data new --size 0": (2, "--size"),
    "pack data new --quality 100": (2, "--quality"),
    "pack data new --shard-size 0": (2, "--shard-size"),
    "pack data new --val-fraction 0.2": (2, "--val-fraction"),
}


@pytest.mark.parametrize("words", ERRORS)
def test_errors(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path / "data")
    code, named = ERRORS[words]
    assert main(words.split()) == code
    out, error = capsys.readouterr()
    assert not out
    assert named in error
    assert len(error.splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
