"""`coatnet scan`: its tables, its JSON, its page and where that goes."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from coatnet.cli import main

BLOCKED = re.compile(r"(?:https?:)?//|\b(?:src|href)=[\"'](?!data:)|url\(|@import")


def run(capsys, *words, code=0):
    capsys.readouterr()
    assert main(["scan", *map(str, words)]) == code, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture
def suspects(image_folder, tmp_path, monkeypatch):
    """19 images of three classes: one that cannot be read, one that is a copy with another label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (image_folder / "cross" / "3.png").write_bytes(b"")
    shutil.copy(image_folder / "circle" / "0.png", image_folder / "square" / "<b>copy.png")
    return image_folder


def test_tables_and_page(suspects, tmp_path, capsys):
    text = run(capsys, "shapes")
    for words in (
        "shapes: 19 images; all 19",
        "sizes: 1; most common 40 x 40 (18)",
        "Images that cannot be read: 1 empty.",
        "Duplicates with different labels: 1 group.",
        "cross/3.png (all: cross): empty: 0 bytes",
        "circle/0.png (all: circle) = square/<b>copy.png (all: square)",
        "report  runs/scan-shapes.html",
    ):
        assert words in text
    assert re.search(r"^square +7$", text, re.MULTILINE)
    page = (tmp_path / "runs" / "scan-shapes.html").read_text()
    for words in (
        "Scan of shapes",
        "This needs a look",
        "cross/3.png",
        "square/&lt;b&gt;copy.png",
        "same file",
        "40 x 40",
    ):
        assert words in page
    assert page.count("data:image/png;base64,") == 2
    Image.new("RGB", (9, 7)).save(suspects / "cross" / "small.png")
    run(capsys, "shapes")
    page = (tmp_path / "runs" / "scan-shapes-2.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # the smallest and the largest too, now that sizes differ
    assert "The smallest: images with" in page


def test_the_page_needs_no_network(suspects, tmp_path, capsys):
    run(capsys, "shapes", "--report", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert BLOCKED.findall(re.sub(r"data:image/png;base64,[\w+/=]+", "data:", page)) == []
    assert "default-src 'none'" in page


def test_the_page_shows_the_suspects(tmp_path):
    """The pixels of the duplicates, not of other images, stand in the mosaic."""
    from coatnet.data.scan import scan
    from coatnet.data.scan_report import _Sections
    from coatnet.data.sources import DataConfig, find_parts

    for name, levels in {"red": (10, 60, 10), "blue": (10, 110)}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for index, level in enumerate(levels):
            Image.new("RGB", (30, 30), (level, 7, 9)).save(tmp_path / "data" / name / f"{index}.png")
    found = find_parts(DataConfig(path=str(tmp_path / "data")))
    sections = _Sections(tmp_path, scan("x", found), found.parts).all()
    [picture] = next(section for section in sections if "several labels" in section.title).pictures
    with Image.open(picture.path) as image:
        colours = {colour[:3] for _, colour in image.getcolors(1 << 20)}
    assert (10, 7, 9) in colours
    assert colours.isdisjoint({(60, 7, 9), (110, 7, 9)})


def test_for_machines(suspects, tmp_path, capsys):
    found = json.loads(run(capsys, "shapes", "--json"))
    assert not (tmp_path / "runs").exists()
    assert found["images"] == 19
    assert found["counts"] == {"all": {"circle": 6, "cross": 6, "square": 7}}
    assert found["unreadable"] == [
        {"name": "cross/3.png", "split": "all", "label": "cross", "code": "empty", "detail": "0 bytes"}
    ]
    [group] = found["duplicates"]
    assert (group["kind"], group["across_splits"], group["labels_differ"]) == ("file", False, True)
    assert group["samples"][1] == {
        "name": "square/<b>copy.png",
        "split": "all",
        "label": "square",
        "width": 40,
        "height": 40,
    }
    assert len(found["problems"]) == 3
    assert found["aspects"][-1]["high"] is None
    run(capsys, "shapes", "--json", "--report", "new/page.html")
    assert (tmp_path / "new" / "page.html").is_file()


def test_nothing_is_overwritten_unasked(suspects, tmp_path, capsys):
    run(capsys, "shapes")
    assert "runs/scan-shapes-2.html" in run(capsys, "shapes")
    (tmp_path / "mine.html").write_text("mine")
    assert main(["scan", "shapes", "--report", "mine.html"]) == 2
    assert "--report mine.html exists" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "mine"
    for wrong, told in ((["--report", "runs"], "is a folder"), (["--report", "mine.html/x"], "is a file")):
        assert main(["scan", "shapes", *wrong]) == 2
        assert told in capsys.readouterr().err
    assert main(["scan", "shapes", "--overwrite"]) == 2
    assert "--overwrite needs --report" in capsys.readouterr().err
    run(capsys, "shapes", "--report", "mine.html", "--overwrite")
    assert "Scan of shapes" in (tmp_path / "mine.html").read_text()


def test_strict(suspects, image_folder, capsys):
    run(capsys, "shapes", "--strict", "--json", code=3)
    assert main(["scan", "shapes", "--strict", "--json"]) == 3
    message, hint = capsys.readouterr().err.splitlines()
    assert "cannot be read: 1 empty" in message
    assert "--strict" in hint
    (image_folder / "cross" / "3.png").unlink()
    (image_folder / "square" / "<b>copy.png").unlink()
    run(capsys, "shapes", "--strict", "--json")


def test_other_columns(suspects, image_folder, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("photo,kind\nshapes/circle/0.png,round\nshapes/cross/0.png,crossed\n")
    words = ["list.csv", "--json", "--image-column", "photo", "--label-column", "kind"]
    assert json.loads(run(capsys, *words))["counts"] == {"all": {"crossed": 1, "round": 1}}


@pytest.mark.parametrize("name", ["one_class", "single", "unreadable", "only_val"])
def test_what_cannot_be_trained_on_can_be_looked_at(name, in_zoo, capsys):
    found = json.loads(run(capsys, name, "--json"))
    assert found["images"] > 0
    assert (len(found["unreadable"]) == found["images"]) == (name == "unreadable")


def test_a_process_of_its_own(suspects, tmp_path):
    command = [sys.executable, "-m", "coatnet", "scan", "shapes"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("19 images") == 1
