"""`coatnet explain`: its files, its JSON, and what it refuses."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from coatnet.cli import main

BLOCKED = re.compile(r"(?:https?:)?//|\b(?:src|href)=[\"'](?!data:)|url\(|@import")


@pytest.fixture
def here(image_folder, tmp_path, monkeypatch, tiny_classifier):
    """Work beside the images; the classifier's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tiny_classifier


def run(capsys, *words, code=0):
    capsys.readouterr()
    assert main(["explain", *map(str, words)]) == code, capsys.readouterr().err
    told = capsys.readouterr()
    return told.out if code == 0 else told


def test_a_page_for_each_image(here, tmp_path, capsys):
    text = run(capsys, here, "shapes/circle/0.png", "shapes/cross/0.png", "--at", "20,31")
    assert re.search(r"^shapes/circle/0.png: \w+ \d\d\.\d %  runs/explain-tiny/0.html$", text, re.MULTILINE)
    assert "runs/explain-tiny/0-2.html" in text
    page = (tmp_path / "runs" / "explain-tiny" / "0-2.html").read_text()
    assert BLOCKED.findall(re.sub(r"data:image/png;base64,[\w+/=]+", "data:", page)) == []
    for words in ("What was seen in 0.png", "row 20, column 31", "S3.0, token 1,1 of 2 x 2", "head 2", "Learned bias"):
        assert words in page
    assert page.count("data:image/png;base64,") == 2 + 2 + 2  # image, maps; S3.0 and S4.0: attention and bias
    run(capsys, here, "shapes/circle/0.png", "--method", "rollout")
    assert (tmp_path / "runs" / "explain-tiny-2" / "0.html").is_file()


def test_a_grid_and_an_overlay(here, tmp_path, capsys):
    run(capsys, here, "shapes/circle/0.png", "--format", "grid", "--out", "grids")
    run(capsys, here, "shapes/circle", "--format", "overlay", "--method", "grad_cam", "--out", "maps")
    with Image.open(tmp_path / "grids" / "0.png") as grid:
        assert grid.width > 700
        assert grid.height > 500
    assert len(list((tmp_path / "maps").iterdir())) == 6
    with Image.open(tmp_path / "maps" / "1.png") as overlay:
        assert overlay.size == (256, 256)
        pixels = np.asarray(overlay).astype(int)
    assert (pixels.max(-1) - pixels.min(-1)).max() > 50  # colour over grey


def test_faithfulness_of_several_images(here, tmp_path, capsys):
    words = ["shapes/circle/0.png", "shapes/cross/1.png", "--faithfulness", "--out", "new", "--method", "rollout"]
    text = run(capsys, here, *words)
    assert "faithfulness  new/faithfulness.html" in text
    assert "Measured on this image" in (tmp_path / "new" / "1.html").read_text()
    assert "2 images, paired" in (tmp_path / "new" / "faithfulness.html").read_text()


def test_json(here, tmp_path, capsys):
    (told,) = map(json.loads, run(capsys, here, "shapes/circle/0.png", "--json", "--label", "cross").splitlines())
    assert told["image"] == "shapes/circle/0.png"
    assert told["label"] == "cross"
    assert {one["method"] for one in told["heat_maps"]} == {
        "grad_cam",
        "integrated_gradients",
        "rollout",
        "receptive_field",
    }
    assert np.shape(told["attention"][0]["static"]) == (2, 2, 2)
    assert "file" not in told
    assert not (tmp_path / "runs").exists()
    words = ["shapes/circle/0.png", "--json", "--faithfulness", "--method", "rollout", "--out", "x"]
    (told,) = map(json.loads, run(capsys, here, *words).splitlines())
    assert told["file"] == "x/0.html"
    assert told["faithfulness"]["deletion"]["attention rollout"]["area"] > 0
    assert (tmp_path / "x" / "0.html").is_file()


def test_after_an_unreadable_image_it_goes_on(here, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = [here, "bad.png", "shapes/circle/0.png", "--method", "rollout"]
    told = run(capsys, *words, code=3)
    assert "bad.png: not read, unsupported_format" in told.out
    assert "shapes/circle/0.png: " in told.out
    assert "1 image could not be read: bad.png" in told.err
    lines = [json.loads(line) for line in run(capsys, *words, "--json", code=3).out.splitlines()]
    assert lines[0]["error"]["code"] == "unsupported_format"
    assert lines[1]["label"]


def test_a_guest_is_told_what_does_not_apply(tmp_path, image_folder, monkeypatch, capsys):
    import torch

    from coatnet.classifier import Classifier
    from coatnet.model.family import create_model

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Classifier(create_model("timm/test_convnext", num_classes=3)).save("guest")
    text = run(capsys, "guest", "shapes/circle/0.png")
    assert "  left out: attention is taken apart only for CoAtNets, ours and timm's\n" in text
    page = (tmp_path / "runs" / "explain-guest" / "0.html").read_text()
    assert "Left out: attention is taken apart" in page
    assert "Learned bias" not in page
    told = run(capsys, "guest", "shapes/circle/0.png", "--method", "rollout", code=2)
    assert "rollout does not apply" in told.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "IMAGES is missing"),
        (["shapes", "--method", "gradcam"], 2, "--method: there is no 'gradcam'"),
        (["shapes", "--method", "grad_cam,rollout", "--format", "overlay"], 2, "an overlay shows one map"),
        (["shapes", "--at", "3"], 2, "--at: '3' is no place"),
        (["shapes/circle/0.png", "--at", "3,32"], 2, "at 3,32 is outside of the image"),
        (["shapes", "--label", "triangle"], 2, "'triangle' is none of the classes"),
        (["shapes", "--format", "grid", "--faithfulness"], 2, "--faithfulness is shown on pages"),
        (["shapes", "--overwrite"], 2, "--overwrite needs --out"),
        (["shapes", "--out", "shapes/circle/0.png"], 2, "is a file"),
        (["shapes/circle/0.png", "--out", "shapes/circle", "--format", "overlay"], 2, "0.png exists"),
        (["none.png"], 3, "1 image could not be read"),
    ],
)
def test_what_is_refused(here, words, code, message, capsys):
    assert message in run(capsys, here, *words, code=code).err


def test_files_are_replaced_only_when_asked(here, tmp_path, capsys):
    words = [here, "shapes/circle/0.png", "--method", "rollout", "--out", "new"]
    run(capsys, *words)
    before = (tmp_path / "new" / "0.html").read_bytes()
    run(capsys, *words, code=2)
    run(capsys, *words, "--overwrite", "--at", "0,0")
    assert (tmp_path / "new" / "0.html").read_bytes() != before


def test_usage_errors_do_not_wait_for_torch(here):
    code = (
        "import sys; from coatnet.cli import main; "
        f"code = main(['explain', {str(here)!r}, 'shapes', '--at', 'x']); print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
