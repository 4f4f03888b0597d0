"""The cases that timm puts each of its networks through, on 13 of ours, found by name in timm's registry."""

import math

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models._features_fx import create_feature_extractor
from torch import Tensor, nn

from coatnet.model.family import FAMILY

NAMES = [name for name in FAMILY if name != "coatnet_7"]  # 2.4 billion parameters, 10 GB
QUICK = ("coatnet_mini_32",)
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
each_network = pytest.mark.parametrize("name", EVERY)


def create(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def images_of(name: str, most: int = 96, batch: int = 1) -> Tensor:
    side = min(FAMILY[name].image_size, most)
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@each_network
@torch.no_grad()
def test_forward(name: str) -> None:
    logits = create(name)(images_of(name, 224))
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()


@each_network
def test_backward_reaches_every_parameter(name: str) -> None:
    model = create(name, num_classes=42).train()
    logits = model(images_of(name, 64, batch=2))
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert not [one for one, parameter in model.named_parameters() if parameter.grad is None]


@each_network
@torch.no_grad()
def test_record_and_head(name: str) -> None:
    model = create(name)
    record, names, images = model.default_cfg, model.state_dict(), images_of(name, 224)
    assert record["input_size"] == images.shape[1:]
    assert {f"{record['classifier']}.weight", f"{record['first_conv']}.weight"} <= names.keys()
    features = model.forward_features(images)
    before = model.forward_head(features, pre_logits=True)
    assert features.shape == (1, model.num_features, *record["pool_size"])
    assert before.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(images), before)
    model.reset_classifier(0, "")
    assert model(images).shape[2:] == record["pool_size"]


@each_network
@torch.no_grad()
def test_features_only(name: str) -> None:
    model = create(name, features_only=True)
    images = images_of(name)
    channels, strides = model.feature_info.channels(), model.feature_info.reduction()
    maps = model(images)
    assert len(maps) == len(channels) >= 4
    for one, channel, stride in zip(maps, channels, strides, strict=True):
        assert one.shape == (1, channel, *[math.ceil(images.shape[2] / stride)] * 2)
        assert one.isfinite().all()


@each_network
@torch.no_grad()
def test_features_only_of_chosen_maps(name: str) -> None:
    images = images_of(name)
    expected = create(name).feature_maps(images)
    model = create(name, features_only=True, out_indices=(1, -2))
    assert model.out_indices == [1, len(expected) - 2]
    for one, index in zip(model(images), model.out_indices, strict=True):
        torch.testing.assert_close(one, expected[index])


@each_network
@torch.no_grad()
def test_intermediates(name: str) -> None:
    model = create(name)
    images = images_of(name)
    last, maps = model.forward_intermediates(images)
    assert [one.shape[1] for one in maps] == [info["num_chs"] for info in model.feature_info]
    torch.testing.assert_close(last, model.forward_features(images))
    (only,) = model.forward_intermediates(images, indices=[2], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(only, maps[2])


@each_network
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
def test_torchscript_trace(name: str) -> None:
    model = create(name)
    images = images_of(name)
    traced = torch.jit.trace(model, images)
    torch.testing.assert_close(traced(images), model(images))


@each_network
@torch.no_grad()
def test_fx_forward(name: str) -> None:
    model = create(name)
    images = images_of(name)
    extracted = create_feature_extractor(model, ["head.classes"])
    torch.testing.assert_close(extracted(images)["head.classes"], model(images))


@each_network
def test_fx_backward(name: str) -> None:
    model = create(name, num_classes=42).train()
    extracted = create_feature_extractor(model, ["head.classes"])
    extracted(images_of(name, 64, batch=2))["head.classes"].mean().backward()
    assert not [one for one, parameter in extracted.named_parameters() if parameter.grad is None]


@each_network
def test_checkpointing_and_groups(name: str) -> None:
    model = create(name)
    images = images_of(name, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).sum().backward()
        gradients.append(model.get_parameter(f"{model.default_cfg['first_conv']}.weight").grad)
    torch.testing.assert_close(*gradients)
    groups = group_parameters(model, model.group_matcher())
    assert len(groups) == 2 + FAMILY[name].num_blocks
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
