"""Published weights on the command line: the list, and answers from a hub's cache made on the spot."""

import json
import re
import shutil

import pytest
from huggingface_hub import constants

from coatnet.classifier import Classifier
from coatnet.cli import main
from coatnet.cli.runs import published_and_images
from coatnet.model.catalogue import CATALOGUE, DEFAULT
from model.hub_cache import fresh_tensors, put, put_in_cache, record_of

VIT = "timm/test_vit.r160_in1k"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no way to the hub, and images here."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "hub"


@pytest.fixture
def photo(image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copy(image_folder / "circle" / "0.png", "photo.png")


def answers(capsys, *words, code=0):
    """What a command that ends with `code` says in JSON."""
    capsys.readouterr()
    assert main([*words, "--json"]) == code, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_list(capsys):
    assert main(["models", "--published"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"coatnet_bn_0_rw_224.sw_in1k +27.44 M +4.65 G +82.39 % +224 px +center 0.95 +0.485 0.456 0.406 +0.229 0.224",
        text,
    )
    assert re.search(r"coatnet_3_rw_224.sw_in12k +181.81 M +33.34 G +- +224 px +center 0.95 +0.5 0.5 0.5 +0.5", text)
    assert re.search(r"coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k +73.88 M .+ 87.39 % +384 px +squash 1 ", text)


def test_the_list_for_machines(capsys):
    (rows,) = answers(capsys, "models", "--published")
    assert [row["name"] for row in rows] == list(CATALOGUE)
    row = next(row for row in rows if row["name"] == DEFAULT)
    assert row["top1"] == 0.8658
    assert (row["mean"], row["image_size"], row["crop_mode"]) == ([0.5, 0.5, 0.5], 224, "center")


def test_predict_with_published_weights(cache, photo, capsys):
    put_in_cache(cache, VIT, fresh_tensors("test_vit"), record_of("test_vit.r160_in1k"))
    expected = Classifier.published(VIT, "cpu").predict(photo).as_dict()
    (plain,) = answers(capsys, "predict", VIT, photo, "--device", "cpu")
    assert plain == {"image": photo, **json.loads(json.dumps(expected))}
    for words in (
        ["--published", VIT, photo],
        ["--published", VIT.removeprefix("timm/"), photo],
        [VIT, photo, "--published"],
    ):
        assert answers(capsys, "predict", *words, "--device", "cpu") == [plain]
    folder = put(cache.parent / "own", fresh_tensors("test_vit"), record_of("test_vit.r160_in1k"))
    for place in (folder, folder / "model.safetensors"):
        assert answers(capsys, "predict", "--published", str(place), photo, "--device", "cpu") == [plain]


def test_evaluate_with_published_weights(cache, image_folder, capsys):
    names = ("circle", "cross", "square")
    record = {**record_of("test_vit.r160_in1k"), "num_classes": 3, "label_names": names}
    put_in_cache(cache, VIT, fresh_tensors("test_vit", num_classes=3), record)
    (score,) = answers(capsys, "evaluate", VIT, str(image_folder), "--device", "cpu")
    assert score["images"] == 18


def test_without_a_name_there_is_a_default(photo, capsys):
    assert main(["predict", "--published", photo]) == 5
    told = capsys.readouterr().err
    assert told.startswith(f"coatnet: the weights {DEFAULT} are not in ")
    assert f"hf download {DEFAULT} model.safetensors config.json" in told
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--published"], 2, "CLASSIFIER is missing"),
        (["--published", VIT], 2, "IMAGES is missing"),
        (["--published", "photos.png"], 5, DEFAULT),
        (["--published", "timm/a/b", "photo.png"], 2, "'timm/a/b' is not a name of published weights"),
        ([VIT, "photo.png"], 5, f"the weights {VIT} are not in"),
        (["test_vit.r160_in1k", "photo.png"], 4, "test_vit.r160_in1k does not exist"),
    ],
)
def test_what_is_told(words, code, told, photo, capsys):
    assert main(["predict", *words]) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "told"),
    [({"mean": "grey"}, "mean: Input should be a valid array"), (None, "is not a whole safetensors file")],
)
def test_what_is_damaged_is_refused(damage, told, cache, photo, capsys):
    tensors = fresh_tensors("test_vit") if damage else b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR."
    put_in_cache(cache, VIT, tensors, record_of("test_vit.r160_in1k", **(damage or {})))
    assert main(["predict", VIT, photo]) == 4
    assert told in capsys.readouterr().err
    assert not (cache.parent / "hacked").exists()


def test_first_word_after_published(photo, tmp_path):
    (tmp_path / "photos").mkdir()
    path = tmp_path / photo
    for image in ("photo.png", "photos", "missing.jpg", "missing"):
        assert published_and_images(image, ()) == (DEFAULT, (path.relative_to(tmp_path).with_name(image),))
    for name in (VIT, "timm/resnet50", "resnet50.a1_in1k"):
        expected = name if name.startswith("timm/") else f"timm/{name}"
        assert published_and_images(name, (path,)) == (expected, (path,))
