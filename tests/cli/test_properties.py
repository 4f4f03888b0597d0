"""`coatnet properties` in its own process: one table, JSON, pictures, and what is refused."""

import json

import pytest
from PIL import Image

from coatnet.cli import main


def test_members_layouts_and_folders_stand_in_one_table(tmp_path, tiny_classifier, capsys) -> None:
    out = tmp_path / "pictures"
    words = ["properties", "ViT", str(tiny_classifier), "--budget", "1M", "--image-size", "64", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    vit, folder = json.loads(capsys.readouterr().out)
    assert (vit["name"], vit["stride"], vit["image_size"]) == ("ViT", 8, 64)
    assert vit["error_at_stride"] < 1e-9 < vit["error_at_pixels"]
    assert folder["name"] == str(tiny_classifier)
    pictures = sorted(out.iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.format == "PNG"


def test_the_table_is_for_people(capsys) -> None:
    assert main(["properties", "coatnet_mini_64"]) == 0
    printed = capsys.readouterr().out
    assert "coatnet_mini_64" in printed
    assert "(16 px)" in printed


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["coatnet_99"], 2, "there is no model 'coatnet_99'"),
        (["CCXT"], 2, "there is no model 'CCXT'"),
        (["TTTT"], 2, "S1 always convolves"),
        (["coatnet_mini_32", "--image-size", "37"], 2, "no shift moves them by one"),
        ([__file__], 4, "is not a folder"),
        (["nowhere/to/be/found"], 4, "nowhere/to/be/found does not exist"),
    ],
)
def test_what_cannot_be_measured_is_told(words, code, told, capsys) -> None:
    assert main(["properties", *words]) == code
    assert told in capsys.readouterr().err
