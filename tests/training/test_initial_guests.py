"""Starting from published weights: by name, from files, at other sizes, and by itself when nothing is asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from coatnet.classifier import Classifier
from coatnet.cli.flags import Asked, build_config
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError
from coatnet.model.family import create_model, member
from coatnet.model.layers import ordered_layers
from coatnet.training.config import lay_over
from coatnet.training.initial import AUTO, START_ON_CPU, find_initial, initial_state
from coatnet.training.loop import resume, train
from coatnet.training.recipes import finetune
from model.hub_cache import fresh_tensors, put, put_in_cache, record_of
from training.test_loop import final, stopped_at

VIT, RESNET = "timm/test_vit.r160_in1k", "timm/test_resnet.r160_in1k"
NOTHING = {"run": {}, "data": {}, "model": {}, "optimizer": {}, "augmentation": {}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def published(cache, name):
    bare = name.removeprefix("timm/")
    tensors = fresh_tensors(bare.partition(".")[0])
    put_in_cache(cache, name, tensors, record_of(bare))
    return tensors


def photographs(folder: Path, side: int) -> Path:
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        for index in range(6):
            pixels = np.random.default_rng(index).integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_the_body_is_the_published_one_and_the_head_is_new(cache, name):
    tensors = published(cache, name)
    config = finetune("digits", name)
    assert config.initial.source == name
    assert config.initial.head == "new, the classes are others"
    assert config.preprocess.mean == (0.5, 0.5, 0.5)
    assert config.preprocess.image_size == (160, 160)
    state = initial_state(config).tensors
    same = {key for key in state if key in tensors and torch.equal(state[key], tensors[key])}
    assert {key for key in state if key not in same} == {
        key for key in state if key.startswith(("head.", "fc.")) and state[key].shape[:1] == (10,)
    }


def test_files_and_folders_serve_as_well(cache, tmp_path):
    tensors = fresh_tensors("test_vit")
    folder = put(tmp_path / "copied", tensors, record_of("test_vit.r160_in1k"))
    for source, model in ((folder, None), (folder / "model.safetensors", "timm/test_vit")):
        config = finetune("digits", source, model=model)
        assert torch.equal(initial_state(config).tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.weight"])
    with pytest.raises(ConfigError, match="model is timm/test_resnet, and"):
        find_initial(folder, "timm/test_resnet")


def test_classes_of_a_guest_are_cut_by_name(tmp_path):
    torch.manual_seed(0)
    names = (*map(str, reversed(range(10))), "ten")
    model = create_model(member("timm/test_vit").replace(num_classes=11, image_size=32))
    preprocess = Preprocess(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    Classifier(model, preprocess, names).save(tmp_path / "guest")
    config = finetune("digits", tmp_path / "guest")
    assert config.initial.head == "cut, to 10 of its classes"
    rows = [names.index(name) for name in config.class_names]
    assert torch.equal(initial_state(config).tensors["head.weight"], model.state_dict()["head.weight"][rows].cpu())


def test_a_guest_is_rebuilt_at_another_size(cache):
    tensors = published(cache, VIT)
    config = finetune("digits", VIT, image_size=(96, 96))
    state = initial_state(config).tensors
    assert state["pos_embed"].shape[1] < tensors["pos_embed"].shape[1]
    model = create_model(config.model)
    model.load_state_dict(state)
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 10)
    with pytest.raises(ConfigError, match="cannot be built for 96 x 128 px"):
        finetune("digits", VIT, image_size=(96, 128))


@pytest.mark.parametrize("freeze", ["none", "body_first"])
def test_a_fine_tuned_guest_resumes_bit_for_bit(cache, tmp_path, freeze):
    published(cache, RESNET)
    pace = {"steps": 6, "batch_size": 8, "evaluate_every": 6, "save_every": 3, "log_every": 1, "device": "cpu"}
    config = lay_over(
        finetune("digits", RESNET, image_size=(32, 32)),
        run={**pace, "keep_checkpoints": 9},
        data={"workers": 0},
        optimizer={"freeze": freeze, "layer_decay": 0.7, **({"frozen_share": 0.5} if freeze != "none" else {})},
    )
    train(config, tmp_path / "whole")
    copy = stopped_at(tmp_path / "whole", 3, tmp_path / "stopped")
    resume(copy)
    assert final(copy) == final(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "blocks"), [("test_vit", 6), ("test_resnet", 4), ("test_convnext", 6), ("test_coatnet", 6), ("vgg11", 0)]
)
def test_every_parameter_of_a_guest_is_in_one_layer(name, blocks):
    model = create_model(f"timm/{name}", num_classes=3)
    layers = ordered_layers(model)
    held = [parameter for layer in layers for parameter in layer.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == set(model.parameters())
    assert len(layers) >= blocks
    classes = next(parameter for parameter in layers[-1].parameters() if parameter.shape[0] == 3)
    assert classes is not None


def test_auto_takes_published_weights_for_photographs(cache, tmp_path):
    data = str(photographs(tmp_path / "photographs", 128))
    config, _ = build_config(data, NOTHING, Asked(init=AUTO))
    assert config.initial is None
    missed = config.choices[-1]
    assert "initial weights: none, though published ones would start better" in missed
    assert f"hf download {START_ON_CPU}" in missed
    published(cache, START_ON_CPU)
    config, _ = build_config(data, NOTHING, Asked(init=AUTO))
    assert config.initial.source == START_ON_CPU
    assert config.model == member(START_ON_CPU).replace(num_classes=2)


@pytest.mark.parametrize("asked", [Asked(model="coatnet_mini_64"), Asked(recipe="small_data"), Asked(init="none")])
def test_auto_asks_nobody_when_something_else_is_asked_for(cache, tmp_path, asked):
    published(cache, START_ON_CPU)
    data = str(photographs(tmp_path / "photographs", 128))
    assert build_config(data, NOTHING, asked)[0].initial is None


def test_small_images_are_trained_from_scratch_without_a_word(cache, tmp_path):
    published(cache, START_ON_CPU)
    config, _ = build_config(str(photographs(tmp_path / "thumbnails", 100)), NOTHING, Asked())
    assert config.initial is None
    assert not any("initial weights" in choice for choice in config.choices)
