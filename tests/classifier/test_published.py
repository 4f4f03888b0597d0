"""Classifiers with published weights: preprocessing and class names as recorded, whatever our own defaults are."""

import json

import numpy as np
import pytest
import timm
from huggingface_hub import constants
from PIL import Image

from coatnet.classifier import Classifier
from coatnet.classifier.published import class_names_of, preprocess_of
from coatnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from coatnet.errors import ConfigError, ModelFileError
from coatnet.model.catalogue import CATALOGUE
from coatnet.model.published import Published
from model.hub_cache import fresh_tensors, put, put_in_cache, record_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", CATALOGUE)
def test_preprocessing_of_the_published_coatnets(name):
    preprocess = preprocess_of(Published.registered(name))
    record = timm.models.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
    peer = timm.data.resolve_data_config(pretrained_cfg=record)
    assert (3, *preprocess.image_size) == peer["input_size"]
    assert (preprocess.mean, preprocess.std) == (peer["mean"], peer["std"])
    assert (preprocess.crop_fraction, preprocess.interpolation) == (peer["crop_pct"], peer["interpolation"])
    assert preprocess.resize == {"center": "crop", "squash": "stretch"}[peer["crop_mode"]]
    half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    expected = (IMAGENET_MEAN, IMAGENET_STD) if "bn_0" in name else half
    assert (preprocess.mean, preprocess.std) == expected


@pytest.mark.parametrize("name", ["coatnet_nano_rw_224.sw_in1k", "test_resnet.r160_in1k"])
def test_input_is_what_timm_would_give(name):
    """timm cuts after it has rounded the resized size; so the two may be off by a fraction of a pixel."""
    y, x = np.mgrid[0:300, 0:400]
    image = (128 + 100 * np.stack([np.sin(x / 40), np.cos(y / 30), np.sin((x + y) / 50)], axis=-1)).astype(np.uint8)
    record = timm.models.get_pretrained_cfg(name).to_dict()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=record))
    ours = preprocess_of(Published.registered(f"timm/{name}"))(image)
    assert np.abs(ours - transform(Image.fromarray(image)).numpy()).max() < 0.1


def test_the_record_beside_the_weights_counts(cache):
    odd = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.7, "crop_mode": "squash"}
    record = record_of("test_resnet.r160_in1k", interpolation="bilinear", **odd)
    put_in_cache(cache, "timm/test_resnet.r160_in1k", fresh_tensors("test_resnet"), record)
    preprocess = Classifier.published("timm/test_resnet.r160_in1k", "cpu").preprocess
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (preprocess.crop_fraction, preprocess.resize, preprocess.interpolation) == (0.7, "stretch", "bilinear")


@pytest.mark.parametrize(
    "changes", [{"crop_pct": 1.15}, {"interpolation": "nearest"}, {"mean": [123.0, 117.0, 104.0]}, {"std": [0, 1, 1]}]
)
def test_preprocessing_that_we_do_not_have_is_refused(changes, tmp_path):
    folder = put(tmp_path / "odd", fresh_tensors("test_vit"), record_of("test_vit.r160_in1k", **changes))
    with pytest.raises(ConfigError, match="the preprocessing of test_vit is none that coatnet has"):
        Classifier.published(folder)


@pytest.mark.parametrize("num_classes", [1000, 11221, 11821, 21841, 21842, 21843])
def test_class_names_are_words_and_differ(num_classes):
    record = Published.registered("timm/test_vit.r160_in1k").replace(num_classes=num_classes)
    names = class_names_of(record)
    assert len(names) == len(set(names)) == num_classes
    if num_classes == 1000:
        assert names[0] == "tench, Tinca tinca"
        assert {"crane (n02012849)", "crane (n03126707)"} <= set(names)
        assert not any(name.startswith("n0") for name in names)


def test_class_names_of_the_record_come_first():
    record = Published.registered("timm/test_vit.r160_in1k").replace(num_classes=3, label_names=("x", "y", "z"))
    assert class_names_of(record) == ("x", "y", "z")
    told = record.replace(label_descriptions={"x": "fox", "y": "fox"})
    assert class_names_of(told) == ("fox (x)", "fox (y)", "z")
    with pytest.raises(ModelFileError, match="3 class names for 4 classes"):
        class_names_of(record.replace(num_classes=4))
    assert class_names_of(record.replace(num_classes=2, label_names=None)) == ("0", "1")


def test_published_weights_become_a_classifier_folder(cache, tmp_path):
    put_in_cache(cache, "timm/test_vit.r160_in1k", fresh_tensors("test_vit"), record_of("test_vit.r160_in1k"))
    classifier = Classifier.published("timm/test_vit.r160_in1k")
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    answer = classifier.predict(image)
    assert answer.label in classifier.class_names
    classifier.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved")
    assert loaded.predict(image) == answer
    assert loaded.preprocess == classifier.preprocess
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model"] == {
        "guest": "timm/test_vit",
        "num_classes": 1000,
        "image_size": 160,
        "input_channels": 3,
        "stochastic_depth": 0.0,
    }


def test_a_folder_is_published_too(tmp_path):
    folder = put(tmp_path / "own", fresh_tensors("test_vit"), record_of("test_vit.r160_in1k"))
    expected = Classifier.published(folder).predict(np.zeros((9, 9, 3), np.uint8))
    assert Classifier.published(str(folder / "model.safetensors")).predict(np.zeros((9, 9, 3), np.uint8)) == expected


@pytest.mark.parametrize(
    "guest", ["hf-hub:me/mine", "timm/../mine", "timm/local-dir:x", "timm/test_vit.r160_in1k", "timm/unknown"]
)
def test_a_hostile_config_names_nothing_but_an_architecture(guest, cache, tmp_path):
    put_in_cache(cache, "timm/test_vit.r160_in1k", fresh_tensors("test_vit"), record_of("test_vit.r160_in1k"))
    Classifier.published("timm/test_vit.r160_in1k").save(tmp_path / "saved")
    stored = (tmp_path / "saved" / "config.json").read_text()
    (tmp_path / "saved" / "config.json").write_text(stored.replace("timm/test_vit", guest))
    with pytest.raises(ModelFileError, match=r"config.json"):
        Classifier.load(tmp_path / "saved")
