"""`coatnet.explain`: what it gives for members and guests, and what it refuses."""

import json
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import coatnet
from coatnet.classifier import Classifier
from coatnet.data.images import ImageError
from coatnet.errors import ConfigError, MissingPartError, ModelFileError
from coatnet.explanation.explain import METHODS, explain
from coatnet.explanation.record import record
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.runtime.engines import Engine


@pytest.fixture(scope="module")
def classifier(tiny_classifier):
    return Classifier.load(tiny_classifier, device="cpu")


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def guest(name):
    torch.manual_seed(0)
    return Classifier(create_model(name, num_classes=3))


def test_a_member_has_everything(classifier, picture):
    found = coatnet.explain(classifier, picture)
    answer = classifier.predict(picture)
    assert (found.label, found.probability) == (answer.label, pytest.approx(answer.probability, rel=1e-5))
    np.testing.assert_array_equal(found.image, classifier.preprocess.resized(picture))
    layers = [(one.method, one.layer, one.values.shape) for one in found.heat_maps]
    assert layers == [
        ("grad_cam", "S1", (8, 8)),
        ("grad_cam", "S2", (4, 4)),
        ("integrated_gradients", "input", (32, 32)),
        ("rollout", "blocks", (2, 2)),
        *(("receptive_field", stage, (32, 32)) for stage in ("S1", "S2", "S3", "S4")),
    ]
    assert found.heat_map("grad_cam").layer == "S2"
    assert [(block.name, block.grid) for block in found.attention] == [("S3.0", (2, 2)), ("S4.0", (1, 1))]
    assert found.left_out == {}
    assert found.at == (16, 16)
    assert all(np.isfinite(one.values).all() for one in found.heat_maps)


def test_only_what_is_asked_for(classifier, picture):
    found = explain(classifier, picture, methods=("rollout",))
    assert [one.method for one in found.heat_maps] == ["rollout"]
    nothing = explain(classifier, picture, methods=())
    assert nothing.heat_maps == ()
    assert len(nothing.attention) == 2


def test_another_class_has_another_explanation(classifier, picture):
    maps = [
        explain(classifier, picture, methods=("integrated_gradients",), label=label) for label in classifier.class_names
    ]
    assert [one.label for one in maps] == list(classifier.class_names)
    assert sum(one.probability for one in maps) == pytest.approx(1)
    values = [one.heat_maps[0].values for one in maps]
    assert abs(values[0] - values[1]).max() > 0.01 * abs(values[0]).max()


def test_the_place_decides_query_and_receptive_field(classifier, picture):
    left, right = (explain(classifier, picture, methods=("receptive_field",), at=at) for at in ((20, 3), (20, 31)))
    assert left.token_of(left.attention[0]) == (1, 0)
    assert right.token_of(right.attention[0]) == (1, 1)
    assert left.token_of(left.attention[0], (0, 31)) == (0, 1)
    for one, side in ((left, slice(0, 16)), (right, slice(16, 32))):
        field = one.heat_maps[0].values
        assert field[:, side].sum() > 0.5 * field.sum()


def test_it_is_ready_for_json(classifier, picture):
    found = explain(classifier, picture, at=(0, 31))
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["at"] == [0, 31]
    assert told["image_size"] == [32, 32]
    assert [block["query"] for block in told["attention"]] == [[0, 1], [0, 0]]
    parts = found.attention[0].parts((0, 1))
    np.testing.assert_allclose(told["attention"][0]["whole"], parts.whole, rtol=1e-4)
    np.testing.assert_allclose(told["heat_maps"][2]["values"], found.heat_maps[2].values, rtol=1e-4)


def test_it_leaves_no_trace(classifier, picture):
    before = classifier.logits(picture[None])
    explain(classifier, picture)
    model = classifier.engine.model
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    np.testing.assert_array_equal(classifier.logits(picture[None]), before)


def test_only_the_own_thread_is_recorded(classifier):
    model, others = classifier.engine.model, []

    def answer(module, inputs):
        if threading.current_thread() is threading.main_thread() and not others:
            others.append(threading.Thread(target=lambda: model(torch.zeros(5, 3, 64, 64))))
            others[0].start()
            others[0].join()

    handle = model.head.register_forward_pre_hook(answer)
    seen = record(model, torch.zeros(1, 3, 32, 32))
    handle.remove()
    assert others
    assert {map_BHWC.shape[0] for map_BHWC in seen.maps.values()} == {1}
    assert {tokens.shape[0] for tokens, _ in seen.tokens.values()} == {1}


def test_grad_cam_of_a_layout_without_convolution_is_told(picture):
    vit = Classifier(create_model(CoAtNetConfig.from_layout("ViT", (1,), (32,), image_size=32, num_classes=3)))
    found = explain(vit, picture, methods=None)
    assert set(found.left_out) == {"grad_cam"}
    assert "ViT has no convolution stage" in found.left_out["grad_cam"]
    with pytest.raises(ConfigError, match="ViT has no convolution stage"):
        explain(vit, picture, methods=("grad_cam",))


def test_a_layout_without_attention(picture):
    config = CoAtNetConfig.from_layout("CCCC", (2, 1, 1, 1, 1), (8, 8, 8, 8, 8), image_size=32, num_classes=3)
    found = explain(Classifier(create_model(config)), picture)
    assert found.attention == ()
    assert set(found.left_out) == {"rollout", "attention"}
    assert [one.layer for one in found.heat_maps if one.method == "grad_cam"] == ["S1", "S2", "S3", "S4"]


@pytest.mark.parametrize(
    "choice",
    [{"bias_position": "after"}, {"attention": "window"}, {"attention": "linear", "relative_attention": False}],
)
def test_attention_whose_parts_do_not_add_up_is_told(choice, tiny_config, picture):
    other = Classifier(create_model(tiny_config.replace(**choice)))
    found = explain(other, picture)
    assert found.attention == ()
    assert set(found.left_out) == {"rollout", "attention"}
    assert "only where it is global" in found.left_out["attention"]


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext", "timm/swin_tiny_patch4_window7_224"])
def test_a_guest_with_maps(name, picture):
    classifier = guest(name)
    found = explain(classifier, picture, methods=("grad_cam", "receptive_field"))
    with torch.no_grad():
        expected = classifier.logits(found.image[None])
    assert found.probability == pytest.approx(float(torch.softmax(torch.from_numpy(expected), 1).max()), rel=1e-4)
    assert [(one.method, one.layer) for one in found.heat_maps] == [
        ("grad_cam", "features"),
        ("receptive_field", "features"),
    ]
    height, width = found.heat_maps[0].values.shape
    assert height == width
    assert height * 32 in range(found.image.shape[0], found.image.shape[0] + 32)
    assert set(found.left_out) == {"attention"}
    with pytest.raises(ConfigError, match="rollout does not apply"):
        explain(classifier, picture, methods=("rollout",))


def test_a_guest_with_tokens(picture):
    found = explain(guest("timm/test_vit"), picture)
    assert [one.method for one in found.heat_maps] == ["integrated_gradients"]
    assert set(found.left_out) == {"grad_cam", "rollout", "receptive_field", "attention"}


def test_any_module_of_torch(picture):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    linear = Classifier(module, coatnet.Preprocess(image_size=32), ("a", "b"))
    found = explain(linear, picture)
    weights = module[1].weight.detach().numpy()[linear.class_names.index(found.label)].reshape(3, 32, 32)
    pixels = linear.preprocess.normalized(found.image[None])[0]
    # The integrated gradient of a linear network is weight times input.
    np.testing.assert_allclose(found.heat_maps[0].values, (weights * pixels).sum(0), rtol=1e-4, atol=1e-6)


class Exported(Engine):
    """Stands for what an export gives: logits and nothing else."""

    def logits(self, images):
        return np.zeros((len(images), 2), np.float32)


def test_an_exported_network_has_no_gradients(picture):
    exported = Classifier(Exported(), coatnet.Preprocess(image_size=32), ("a", "b"))
    with pytest.raises(ModelFileError, match="an exported network has no gradients") as told:
        explain(exported, picture)
    assert told.value.exit_code == 4
    assert "classifier folder" in told.value.hint


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"methods": ("gradcam",)}, "there is no method 'gradcam'"),
        ({"label": "triangle"}, "'triangle' is none of the classes"),
        ({"at": (32, 0)}, "at 32,0 is outside of the image, which the network sees as 32 x 32"),
        ({"at": (0, -1)}, "at 0,-1 is outside"),
    ],
)
def test_what_is_refused(classifier, picture, asked, message):
    with pytest.raises(ConfigError, match=message):
        explain(classifier, picture, **asked)


def test_no_image(classifier, tmp_path):
    with pytest.raises(ImageError, match=r"none\.png"):
        explain(classifier, tmp_path / "none.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    assert explain(classifier, tmp_path / "small.png", methods=()).image.shape == (32, 32, 3)


def test_without_captum_the_rest_is_given(classifier, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    found = explain(classifier, picture)
    assert {one.method for one in found.heat_maps} == set(METHODS) - {"integrated_gradients"}
    assert "pip install '.[explain]'" in found.left_out["integrated_gradients"]
    with pytest.raises(MissingPartError):
        explain(classifier, picture, methods=("integrated_gradients",))
