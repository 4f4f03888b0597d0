"""Guests are timm's own modules: what goes in and out, what is refused, what it costs."""

import copy
import sys

import pytest
import timm
import torch
from torch import nn

from coatnet.classifier import Classifier
from coatnet.errors import ConfigError, MissingPartError
from coatnet.frozen import explain
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, ModelConfig, create_model, member
from coatnet.model.guests import GuestConfig, undecayed
from coatnet.model.heads import classes_layers
from coatnet.model.size import model_size
from coatnet.training.config import OptimizerConfig
from coatnet.training.initial import find_initial
from coatnet.training.optimizer import create_optimizer

COATNETS = sorted(set(timm.list_models(["coatnet*", "coatnext*"])) - set(FAMILY))


def test_a_guest_is_timms_own_module():
    torch.manual_seed(0)
    model = create_model("timm/test_vit", num_classes=5).eval()
    torch.manual_seed(0)
    peer = timm.create_model("test_vit", num_classes=5).eval()
    images = torch.rand(2, 3, 160, 160)
    assert torch.equal(model(images), peer(images))
    assert list(model.state_dict()) == list(peer.state_dict())
    assert model.network_config == GuestConfig(guest="timm/test_vit", num_classes=5, image_size=160)
    assert model.network_config.layout == "timm/test_vit"


def test_deepvit_is_vit_pytorchs_own_module():
    from vit_pytorch.deepvit import DeepViT

    torch.manual_seed(0)
    model = create_model("vit_pytorch/deepvit", num_classes=5, image_size=32).eval()
    torch.manual_seed(0)
    form = {"dim": 396, "depth": 16, "heads": 12, "dim_head": 33, "mlp_dim": 1188}
    peer = DeepViT(image_size=32, patch_size=4, num_classes=5, **form).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), peer(images))
    assert list(model.state_dict()) == list(peer.state_dict())
    assert classes_layers(model.network_config) == ("mlp_head.1",)
    assert model.network_config == GuestConfig(guest="vit_pytorch/deepvit", num_classes=5, image_size=32)
    with pytest.raises(ConfigError, match=r"image of 64 x 64 pixels: vit_pytorch/deepvit is built for 32 x 32"):
        model(torch.zeros(1, 3, 64, 64))


def test_deepvit_is_near_the_size_of_the_papers_table_4():
    size = model_size(member("vit_pytorch/deepvit"))
    assert size.parameters == pytest.approx(27e6, rel=0.06)
    assert size.multiply_adds == pytest.approx(6.2e9, rel=0.1)


def test_an_optional_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vit_pytorch.deepvit", None)
    with pytest.raises(MissingPartError, match="vit_pytorch/deepvit needs vit-pytorch, which is not installed"):
        create_model("vit_pytorch/deepvit")


def test_a_tag_without_its_weights_gives_its_sizes():
    assert member("timm/coatnet_2_rw_224.sw_in12k").num_classes == 11821
    assert member("timm/coatnet_rmlp_2_rw_384").image_size == 384


def test_a_fixed_guest_is_built_for_the_size_that_is_asked_for():
    model = create_model("timm/test_coatnet", num_classes=2, image_size=96).eval()
    copied = copy.deepcopy(model)
    for network in (model, copied):
        assert network(torch.zeros(1, 3, 96, 96)).shape == (1, 2)
        with pytest.raises(ConfigError, match=r"image of 160 x 128 pixels: timm/test_coatnet is built for 96 x 96"):
            network(torch.zeros(1, 3, 160, 128))


def test_a_flexible_guest_takes_any_size():
    model = create_model("timm/test_resnet", num_classes=2, image_size=96).eval()
    assert model(torch.zeros(1, 3, 64, 128)).shape == (1, 2)


def test_stochastic_depth_is_timms():
    model = create_model("timm/test_vit", stochastic_depth=0.3)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("timm/tset_resnet", {}, "timm has no model 'timm/tset_resnet'; did you mean timm/test_resnet"),
        ("timm/coatnet_0_rw_224.nope", {}, "timm has no weights 'timm/coatnet_0_rw_224.nope'"),
        ("timm/hf-hub:me/mine", {}, "timm has no model"),
        ("timm/local-dir:/tmp", {}, "timm has no model"),
        ("timm/coatnet_0_rw_224", {"image_size": 200}, "timm/coatnet_0_rw_224 does not work at 200 px: "),
        ("timm/test_vit", {"image_size": 8}, "image_size: Input should be greater than or equal to 32"),
        ("timm/vgg11", {"stochastic_depth": 0.1}, "timm/vgg11 has no stochastic depth"),
        ("vit_pytorch/deepvit", {"stochastic_depth": 0.1}, "vit_pytorch/deepvit has no stochastic depth"),
        ("vit_pytorch/deepvit", {"image_size": 50}, "vit_pytorch/deepvit does not work at 50 px: "),
        ("vit_pytorch/cait", {}, "there is no model 'vit_pytorch/cait'"),
        ("timm/test_vit", {"stages": ()}, "no option 'stages'; its options are the fields of GuestConfig"),
        ("timm/vit_base_patch16_sapiens2", {}, "is made for images of 1024 x 768 pixels"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name, changes, told):
    with pytest.raises(ConfigError) as caught:
        create_model(name, **changes)
    assert told in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "name", ["hf-hub:me/mine", "timm/../mine", "timm/hf-hub:me/mine", "timm/a.b", "timm/", "vit", "vit_pytorch/vit"]
)
def test_a_stored_config_can_name_nothing_but_an_architecture(name):
    with pytest.raises(ValueError, match="should match pattern"):
        GuestConfig(guest=name, image_size=224)


def test_both_kinds_of_config_share_a_place():
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(ModelConfig)
    for config in (member("coatnet_mini_32"), member("timm/test_vit")):
        assert adapter.validate_json(adapter.dump_json(config)) == config
        assert adapter.validate_python(config) is config
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({"guest": "timm/test_vit", "image_size": "big"})
    assert [problem["loc"] for problem in caught.value.errors()] == [("<guest>", "image_size")]
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({"stages": []})
    assert [problem["loc"] for problem in caught.value.errors()] == [("<coatnet>", "stages")]
    assert explain(caught.value).startswith("stages: ")


def test_size_of_a_guest_is_counted_as_that_of_a_member():
    paper = CoAtNetConfig.from_layout("CCTT", (2, 2, 3, 5, 2), (64, 96, 192, 384, 768), stem_bias=False)
    twin, ours = model_size(member("timm/coatnet_0_224")), model_size(paper)
    assert twin.parameters == sum(p.numel() for p in timm.create_model("coatnet_0_224").parameters())
    # timm strides in the depthwise convolution; without that they are one network.
    assert twin == model_size(paper.replace(stride_location="depthwise"))
    assert twin.multiply_adds > ours.multiply_adds


def test_what_its_makers_do_not_decay_is_not_decayed():
    model = create_model("timm/test_vit", num_classes=2)
    assert model.pos_embed.ndim > 1
    assert model.pos_embed in undecayed(model)
    optimizer = create_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert set(decay) == set(model.parameters())
    assert decay[model.pos_embed] == decay[model.head.bias] == 0.0
    assert decay[model.head.weight] == 0.3
    tables = [p for name, p in create_model("timm/test_coatnet").named_parameters() if "bias_table" in name]
    assert undecayed(nn.Linear(2, 2)) == set()
    assert tables


def goes_through_a_folder(name, folder, library="timm", **changes):
    """Create, forward, save, load, forward: the same bits."""
    torch.manual_seed(0)
    classifier = Classifier(create_model(f"{library}/{name}", num_classes=3, **changes), class_names=("a", "b", "c"))
    size = classifier.preprocess.image_size
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2)).numpy()
    before = classifier.logits(images)
    classifier.save(folder / name)
    loaded = Classifier.load(folder / name)
    assert (loaded.logits(images) == before).all()
    assert loaded.engine.model.network_config == classifier.engine.model.network_config
    assert name in (folder / name / "README.md").read_text()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "coatnet_pico_rw_224"])
def test_a_guest_goes_through_a_classifier_folder(name, tmp_path):
    goes_through_a_folder(name, tmp_path)


def test_deepvit_goes_through_a_classifier_folder(tmp_path):
    goes_through_a_folder("deepvit", tmp_path, "vit_pytorch", image_size=32)
    with pytest.raises(ConfigError, match="vit_pytorch/deepvit can only be trained from scratch"):
        find_initial(tmp_path / "deepvit")


@pytest.mark.slow
@pytest.mark.parametrize("name", COATNETS)
def test_every_coatnet_of_timm_goes_through_a_classifier_folder(name, tmp_path):
    goes_through_a_folder(name, tmp_path)


def test_there_are_22_of_them():
    assert len(COATNETS) == 22
