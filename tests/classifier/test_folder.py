"""What is saved comes back the same, and nothing that was changed in between comes back at all."""

import hashlib
import json

import numpy as np
import pytest
import torch

from coatnet.classifier import Classifier
from coatnet.classifier import fingerprint as fingerprints
from coatnet.classifier.folder import CARD, JSON_FILES, WEIGHTS
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, ModelFileError, QualityError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.model.weights import save_weights
from coatnet.runtime.engines import Engine

NAMES = ("rose", "tulip", "daisy & <co>")


def tiny_model(seed=0):
    config = CoAtNetConfig.from_layout("CT", (2, 1, 1), (8, 16, 32), image_size=32, num_classes=3)
    torch.manual_seed(seed)
    return create_model(config)


@pytest.fixture
def classifier():
    return Classifier(tiny_model(), Preprocess(image_size=(32, 48), crop_fraction=0.9), NAMES)


@pytest.fixture
def folder(tmp_path, classifier):
    classifier.save(tmp_path / "flowers")
    return tmp_path / "flowers"


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sign(folder):
    """Store the checksums anew, so that only the fingerprint itself can tell what was changed."""
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in JSON_FILES[:-1]}
    change(folder / "fingerprint.json", files=files)


def test_what_is_saved_comes_back(folder, classifier):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    loaded = Classifier.load(folder, device="cpu")
    assert loaded.preprocess == classifier.preprocess
    assert loaded.class_names == NAMES
    np.testing.assert_array_equal(loaded.logits(image[None]), Classifier.load(str(folder), "cpu").logits(image[None]))
    np.testing.assert_allclose(loaded.logits(image[None]), classifier.logits(image[None]), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == sorted((WEIGHTS, *JSON_FILES, CARD))
    assert list(folder.parent.iterdir()) == [folder]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one file may read all


def test_bfloat16_is_only_for_the_answers(folder):
    loaded = Classifier.load(folder, device="cpu", precision="bfloat16")
    assert loaded.engine.precision == "bfloat16"
    loaded.save(folder)
    Classifier.load(folder, device="cpu")


def test_a_run_folder_leads_to_its_classifier(tmp_path, classifier):
    classifier.save(tmp_path / "run" / "classifier")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert Classifier.load(tmp_path / "run", device="cpu").class_names == NAMES


def test_a_missing_folder_or_file_is_named(tmp_path, folder):
    with pytest.raises(ModelFileError, match=r"none does not exist") as caught:
        Classifier.load(tmp_path / "none")
    assert caught.value.exit_code == 4
    (folder / "labels.json").unlink()
    with pytest.raises(ModelFileError, match=r"labels\.json missing") as caught:
        Classifier.load(folder)
    assert "config.json" in caught.value.hint


def test_other_weights_are_found_by_their_checksum(folder):
    save_weights(tiny_model(seed=1), folder / WEIGHTS)
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged or was exchanged"):
        Classifier.load(folder)


def test_other_weights_with_a_new_checksum_are_found_by_the_fingerprint(folder):
    save_weights(tiny_model(seed=1), folder / WEIGHTS)
    change(folder / "fingerprint.json", sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())
    with pytest.raises(ModelFileError, match="the weights do not give the logits that were saved"):
        Classifier.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": [32, 32]},
        {"resize": "stretch"},
        {"resize": "pad"},
        {"crop_fraction": 0.8},
        {"interpolation": "bilinear"},
        {"interpolation": "lanczos"},
        {"mean": [0.49, 0.456, 0.406]},
        {"std": [0.24, 0.224, 0.225]},
        {"mean": [0.406, 0.456, 0.485]},
    ],
)
def test_every_change_of_the_preprocessing_is_found(folder, changes):
    change(folder / "preprocess.json", **changes)
    with pytest.raises(ModelFileError, match=r"preprocess\.json is not what was saved with these weights: its sha256"):
        Classifier.load(folder)
    sign(folder)
    with pytest.raises(ModelFileError, match=r"preprocess\.json is not what was saved .* grey levels"):
        Classifier.load(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("labels.json", {"labels": ["rose", "tulips", "daisy & <co>"]}),
        ("labels.json", {"labels": ["tulip", "rose", "daisy & <co>"]}),
        ("preprocess.json", {"mean": [0.4851, 0.456, 0.406]}),
        ("config.json", {"coatnet": "99"}),
    ],
)
def test_changes_that_no_logit_shows_are_found(folder, name, changes):
    change(folder / name, **changes)
    with pytest.raises(ModelFileError, match=rf"{name} is not what was saved with these weights"):
        Classifier.load(folder)


def test_the_fingerprint_allows_for_other_hardware(folder):
    stored = json.loads((folder / "fingerprint.json").read_text())
    logits, pixels = np.array(stored["logits"]), np.array(stored["input"])
    pixels[::10] += 1 / 255 / 0.229  # one grey level
    change(folder / "fingerprint.json", logits=(logits + 0.005 * logits.std()).tolist(), input=pixels.tolist())
    Classifier.load(folder)
    change(folder / "fingerprint.json", logits=(logits + 0.05 * logits.std()).tolist())
    with pytest.raises(ModelFileError):
        Classifier.load(folder)
    change(folder / "fingerprint.json", logits=[float("nan")] * 3)
    with pytest.raises(ModelFileError):
        Classifier.load(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", r"config\.json is not JSON"),
        ("config.json", '{"format": 2, "future": 1}', r"config\.json: format 2 is not 1"),
        ("config.json", "[]", r"config\.json: "),
        ("labels.json", '{"labels": ["a", "b"]}', r"labels\.json: 2 class names for 3 classes"),
        ("labels.json", '{"labels": ["a", "b", "a"]}', r"labels\.json: class names are given more than once: a"),
        ("labels.json", '{"labels": ["a", "b", 3]}', r"labels\.json: labels\.2: .* got 3"),
        ("fingerprint.json", '{"sha256": "0", "input": []}', r"fingerprint\.json: logits: Field required"),
        ("preprocess.json", '{"image_size": [32, 48], "rotate": 9}', r"preprocess\.json: rotate: .*not permitted"),
    ],
)
def test_a_damaged_file_is_named_with_its_key(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ModelFileError, match=message):
        Classifier.load(folder)


def test_an_unknown_key_deep_in_the_model_is_named(folder):
    record = json.loads((folder / "config.json").read_text())
    record["model"]["stages"][1]["colour"] = "red"
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ModelFileError, match=r"config\.json: model\.stages\.1\.colour"):
        Classifier.load(folder)


def test_a_huge_json_file_is_not_read(folder):
    with (folder / "labels.json").open("ab") as file:
        file.truncate(20_000_000)
    with pytest.raises(ModelFileError, match=r"labels\.json has 20000000 bytes"):
        Classifier.load(folder)


def test_saving_replaces_a_classifier_and_spares_other_things(tmp_path, folder, classifier):
    Classifier(tiny_model(), class_names="abc").save(folder)
    assert Classifier.load(folder, device="cpu").class_names == ("a", "b", "c")
    (tmp_path / "empty").mkdir()
    classifier.save(tmp_path / "empty")
    (folder / "thesis.txt").write_text("my only copy")
    with pytest.raises(ConfigError, match=r"it holds thesis\.txt"):
        classifier.save(folder)
    with pytest.raises(ConfigError, match=r"thesis\.txt is a file"):
        classifier.save(folder / "thesis.txt")
    assert (folder / "thesis.txt").read_text() == "my only copy"


def test_a_save_that_fails_leaves_the_old_folder(folder, classifier, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coatnet.model.weights.save_weights", full)
    with pytest.raises(OSError, match="No space left"):
        classifier.save(folder)
    assert Classifier.load(folder, device="cpu").class_names == NAMES
    assert list(folder.parent.iterdir()) == [folder]


def test_what_cannot_be_saved_is_said(tmp_path):
    class Constant(Engine):
        def logits(self, images):
            return np.zeros((len(images), 3), np.float32)

    with pytest.raises(ConfigError, match="Only a classifier whose network was made by create_model"):
        Classifier(Constant(), Preprocess(image_size=32), NAMES).save(tmp_path / "a")
    diverged = tiny_model()
    with torch.no_grad():
        next(diverged.parameters()).fill_(float("nan"))
    with pytest.raises(QualityError, match="not finite"):
        Classifier(diverged).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_fixed_image_is_the_same_for_ever():
    image = fingerprints.fingerprint_image()
    assert (image.shape, image.dtype) == ((240, 320, 3), np.uint8)
    expected = "c05937d7057d42f14e46ea33f506026335b508a7d47586516cfaddede704e998"
    assert hashlib.sha256(image.tobytes()).hexdigest() == expected, (
        "a changed image makes every saved folder unreadable"
    )


def test_the_card_tells_what_is_inside(folder):
    card = (folder / CARD).read_text()
    for said in ("layout C-T", "3 classes", "| crop_fraction | 0.9 |", '- "daisy & <co>"', "Classifier.load"):
        assert said in card
