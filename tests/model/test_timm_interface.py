"""What code written for timm's networks finds on ours; `test_timm_pattern.py` runs timm's own cases."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from torch import nn

import coatnet
from coatnet import Classifier, ConfigError
from coatnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY
from coatnet.model.layers import ordered_layers
from coatnet.runtime.folding import fold

MIXED = CoAtNetConfig.from_layout("C-C-CT-T", (2, 1, 2, 1, 1, 2), (8, 16, 32, 32, 64, 64), image_size=64, num_classes=5)
VIT = CoAtNetConfig.from_layout("ViT", (2,), (32,), image_size=64, num_classes=5, hidden_width=24)
CONFIGS = {"mixed": MIXED, "ViT, hidden 24": VIT, "no hidden layer": MIXED.replace(hidden_width=0)}


def build(config: CoAtNetConfig) -> CoAtNet:
    torch.manual_seed(0)
    return CoAtNet(config).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_features_and_head_are_the_whole_network(name: str, images: torch.Tensor) -> None:
    model = build(CONFIGS[name])
    features, logits = model.forward_features(images), model(images)
    assert torch.equal(model.forward_head(features), logits)
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(before), logits)
    assert features.shape[1] == model.num_features


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_classes_layer_can_be_taken_off_and_replaced(name: str, images: torch.Tensor) -> None:
    model = build(CONFIGS[name])
    features = model.forward_features(images)
    before = model.forward_head(features, pre_logits=True)
    model.reset_classifier(0)
    assert (model.num_classes, model.network_config.num_classes) == (0, 0)
    assert torch.equal(model(images), before)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, model.head_hidden_size, *features.shape[2:])
    means = model(images).permute(0, 2, 3, 1)[0, 0, 0]
    torch.testing.assert_close(means, model.head.hidden(model.head.norm(features.permute(0, 2, 3, 1)))[0, 0, 0])
    model.reset_classifier(7, "avg")
    assert model(images).shape == (2, 7)
    assert model.get_classifier().weight.std() < 0.03  # the config's first weights, not torch's
    assert Classifier(model).class_names == tuple("0123456")


def test_what_a_reset_cannot_do_changes_nothing() -> None:
    model = build(MIXED)
    for wrong, told in [((-1,), "num_classes"), ((5, "max"), "global_pool is 'max'"), ((5, ""), "need a pooled map")]:
        with pytest.raises(ConfigError, match=told):
            model.reset_classifier(*wrong)
    assert (model.num_classes, model.head.global_pool, model.head.classes.out_features) == (5, "avg", 5)


def test_a_network_without_classes_or_pool_is_no_classifier() -> None:
    model = build(MIXED.replace(num_classes=0))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 64)
    with pytest.raises(ConfigError, match="a classifier needs a network with classes"):
        Classifier(model)
    model.reset_classifier(0, "")
    with pytest.raises(ConfigError, match="only networks that pool"):
        fold(model, (64, 64))


@torch.no_grad()
def test_intermediates_are_the_feature_maps_asked_for(images: torch.Tensor) -> None:
    model = build(MIXED)
    maps, features = model.feature_maps(images), model.forward_features(images)
    for indices, expected in [(None, range(6)), (2, (4, 5)), ([0, -2], (0, 4)), ((3,), (3,))]:
        last, given = model.forward_intermediates(images, indices)
        assert torch.equal(last, features)
        assert all(torch.equal(one, maps[index]) for one, index in zip(given, expected, strict=True))
    last, (only,) = model.forward_intermediates(images, [1], stop_early=True)
    assert torch.equal(last, only)
    for wrong in ([6], [-7], 7, 0, []):
        with pytest.raises(ConfigError, match="the network has the maps 0 to 5"):
            model.forward_intermediates(images, wrong)
    with pytest.raises(ConfigError, match="output_fmt is 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


@torch.no_grad()
def test_a_pruned_network_gives_the_same_maps(images: torch.Tensor) -> None:
    model = build(MIXED)
    maps = model.feature_maps(images)
    assert model.prune_intermediate_layers([-4, 0]) == [2, 0]
    assert torch.equal(model(images), maps[2])
    assert (len(model.stages), model.num_features, model.num_classes) == (2, 32, 0)
    assert model.reset_classifier(3, "avg") is None
    assert model(images).shape == (2, 3)


def test_groups_are_the_layers_of_fine_tuning() -> None:
    model = build(MIXED)
    groups = group_parameters(model, model.group_matcher())
    names = {parameter: name for name, parameter in model.named_parameters()}
    ours = [sorted(names[parameter] for parameter in layer.parameters()) for layer in ordered_layers(model)]
    assert [sorted(group) for group in groups.values()] == ours
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 2 + len(MIXED.stages)


def test_checkpointing_is_recomputing(images: torch.Tensor) -> None:
    model = build(MIXED)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert model.recompute is enable
        model.zero_grad()
        model(images).sum().backward()
        gradients.append(model.stages[0][0].expand.weight.grad)
    torch.testing.assert_close(*gradients)


def test_the_record_says_what_coatnet_does() -> None:
    record = build(MIXED).pretrained_cfg
    assert (record["mean"], record["std"]) == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_registry_has_the_family_and_no_name_of_timms() -> None:
    assert all(timm.is_model(name) for name in FAMILY)
    assert {timm.models.model_entrypoint(name).__module__ for name in FAMILY} == {"coatnet.model.timm_models"}
    with pytest.raises(ConfigError, match="timm has no model 'timm/coatnet_mini_32'"):
        coatnet.create_model("timm/coatnet_mini_32")


def test_created_by_timm_it_is_the_same_network() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(
        "coatnet_mini_32.untrained", num_classes=3, in_chans=1, drop_path_rate=0.1, drop_rate=0.0
    )
    torch.manual_seed(0)
    ours = coatnet.create_model("coatnet_mini_32", num_classes=3, input_channels=1, stochastic_depth=0.1)
    assert theirs.network_config == ours.network_config
    assert all(
        torch.equal(*pair) for pair in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True)
    )
    assert theirs.pretrained_cfg["architecture"] == "coatnet_mini_32"
    unpooled = timm.create_model("coatnet_mini_32", num_classes=0, global_pool="").eval()
    assert unpooled(torch.zeros(1, 3, 32, 32)).shape == (1, 256, 4, 4)


def test_timm_reads_weights_of_ours_and_never_makes_them_up(tmp_path) -> None:
    ours = coatnet.create_model("coatnet_mini_32", num_classes=3).eval()
    save_file({name: tensor.contiguous() for name, tensor in ours.state_dict().items()}, tmp_path / "own.safetensors")
    overlay = {"file": str(tmp_path / "own.safetensors"), "num_classes": 3}
    theirs = timm.create_model("coatnet_mini_32", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(theirs(images), ours(images))
    with pytest.raises(ConfigError, match="no weights are published for 'coatnet_mini_32'"):
        timm.create_model("coatnet_mini_32", pretrained=True)
    with pytest.raises(ConfigError, match="create_model has no option 'drop_rate'"):
        timm.create_model("coatnet_mini_32", drop_rate=0.1)


SLOW_ORDERS = ("timm, coatnet", "coatnet, timm.models.resnet, timm")


@pytest.mark.parametrize(
    "order", ["coatnet, timm", *(pytest.param(order, marks=pytest.mark.slow) for order in SLOW_ORDERS)]
)
def test_timm_finds_the_family_in_either_order_of_imports(order: str) -> None:
    code = f"import {order}, inspect; print(timm.is_model('coatnet_mini_32'), len(inspect.getsource(timm.models)) > 99)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True True\n", "")
