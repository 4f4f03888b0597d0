import copy
import pickle

import pytest
import torch

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model

DEPTHS, WIDTHS = (2, 1, 1, 2, 1), (8, 16, 32, 32, 64)
CHOICES = {
    "CCCC": {},
    "CCCT": {},
    "CCTT": {},
    "CTTT": {},
    "depthwise stride, average pool": {"stride_location": "depthwise", "pool": "average"},
    "layer norm, no squeeze": {"convolution_norm": "layer", "squeeze_ratio": 0.0},
    "no table, no hidden layer": {"relative_attention": False, "hidden_width": 0},
    "erf, hidden 24": {"gelu": "erf", "hidden_width": 24},
    "fan": {"initialisation": "fan"},
    "bias after": {"bias_position": "after"},
    "windows": {"attention": "window", "attention_window": 3},
    "windows, bias after": {"attention": "window", "attention_window": 3, "bias_position": "after"},
    "linear": {"attention": "linear", "relative_attention": False},
}


def build(name: str) -> CoAtNet:
    torch.manual_seed(0)
    layout = name if set(name) <= {"C", "T"} else "CCTT"
    config = CoAtNetConfig.from_layout(layout, DEPTHS, WIDTHS, image_size=64, num_classes=5, **CHOICES.get(name, {}))
    return CoAtNet(config.replace(stochastic_depth=0.1))


def vit() -> CoAtNet:
    return CoAtNet(CoAtNetConfig.from_layout("ViT", (2,), (32,), strides=(16,), image_size=64, num_classes=5))


def mixed() -> CoAtNet:
    config = CoAtNetConfig.from_layout("C-C-CT-T", (2, 1, 1, 1, 2, 1), (8, 16, 32, 32, 64, 64), image_size=64)
    return CoAtNet(config.replace(num_classes=5))


MODELS = {**{name: (lambda name=name: build(name)) for name in CHOICES}, "ViT": vit, "mixed": mixed}


@pytest.mark.parametrize("name", MODELS)
def test_every_form_learns_in_every_parameter(name: str) -> None:
    model = MODELS[name]().train()
    logits = model(torch.randn(4, 3, 64, 64))
    assert logits.shape == (4, 5)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (101, 64)])
def test_any_size_from_32_up_runs(name: str, size: tuple[int, int]) -> None:
    model = MODELS[name]().eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (8, 8)])
def test_smaller_images_are_refused_in_one_line(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        build("CCTT")(torch.zeros(1, 3, *size))
    message = f"image of {size[0]} x {size[1]} pixels is below 32, the smallest that five halvings allow"
    assert str(caught.value) == message


@pytest.mark.parametrize("name", MODELS)
def test_no_images_give_no_logits(name: str) -> None:
    assert MODELS[name]().eval()(torch.zeros(0, 3, 64, 96)).shape == (0, 5)


def test_an_image_without_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"images have the shape \(3, 64, 64\), the network takes \(batch, channels"):
        build("CCTT")(torch.zeros(3, 64, 64))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_feature_maps_are_what_stem_and_stages_give(name: str, size: tuple[int, int]) -> None:
    model = MODELS[name]().eval()
    seen: list[torch.Tensor] = []
    for part in (model.stem, *model.stages):
        part.register_forward_hook(lambda _, inputs, output: seen.append(output.permute(0, 3, 1, 2)))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits = model(images)
        maps = model.feature_maps(images)
        assert torch.equal(model.head(maps[-1].permute(0, 2, 3, 1)), logits)
    assert len(maps) == 1 + len(model.stages)
    assert all(torch.equal(given, expected) for given, expected in zip(maps, seen, strict=False))
    assert tuple(given.shape[1] for given in maps) == model.network_config.feature_channels
    assert tuple(given.shape[2:] for given in maps) == model.network_config.grids(*size)
    assert [-(-size[1] // stride) for stride in model.network_config.feature_strides] == [one.shape[3] for one in maps]


def test_feature_maps_of_recomputed_blocks_have_the_same_gradients() -> None:
    model = build("CCTT").eval()
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for model.recompute in (False, True):
        model.zero_grad()
        model.feature_maps(images)[2].sum().backward()
        gradients.append(model.stages[0][0].expand.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_what_timm_decays_is_what_we_decay() -> None:
    from timm.optim import create_optimizer_v2

    from coatnet.training.config import OptimizerConfig
    from coatnet.training.optimizer import create_optimizer

    model = build("CCTT")
    both = (
        create_optimizer(model, OptimizerConfig(weight_decay=0.3)),
        create_optimizer_v2(model, "adamw", weight_decay=0.3),
    )
    ours, theirs = ({p: group["weight_decay"] for group in one.param_groups for p in group["params"]} for one in both)
    assert ours == theirs


def test_a_network_seen_in_inference_mode_can_still_be_trained() -> None:
    model = build("CCTT").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
    logits = model(images)
    torch.testing.assert_close(logits, expected.clone())
    logits.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected.clone())


def test_other_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="image has 1 channels, the network takes 3"):
        build("CCTT")(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("name", ["CCTT", "ViT", "mixed"])
def test_evaluation_is_deterministic_and_leaves_out_stochastic_depth(name: str) -> None:
    model = MODELS[name]().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), model(images))


def test_forward_returns_logits_in_training_and_in_evaluation() -> None:
    torch.manual_seed(0)
    config = CoAtNetConfig.from_layout("CCTT", DEPTHS, WIDTHS, image_size=64, convolution_norm="layer")
    model = CoAtNet(config)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.train()(images), model.eval()(images))


def test_channels_first_and_channels_last_images_give_the_same() -> None:
    model = build("CCTT").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), model(images.to(memory_format=torch.channels_last)))


def test_tokens_are_views_of_the_map() -> None:
    model = build("CCTT").eval()
    seen: list[torch.Tensor] = []
    block = model.stages[2][1]
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.attention_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert seen[0].is_contiguous()
    assert seen[0].data_ptr() == seen[1].data_ptr()
    assert seen[0].flatten(1, 2).data_ptr() == seen[0].data_ptr()


def test_a_wider_table_is_trained_at_its_own_size_and_serves_another() -> None:
    model = build("CCTT")
    table = model.stages[2][0].attention.relative_bias.table
    assert table.shape == (1, 7, 7)  # 64 pixels, four halvings: 4 x 4 tokens
    model(torch.randn(2, 3, 96, 96)).sum().backward()
    assert table.grad is not None
    assert table.shape == (1, 7, 7)


def test_copies_and_pickles_answer_alike() -> None:
    model = build("CCTT").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)


def test_the_first_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(3)
    first = create_model("coatnet_mini_32", num_classes=3).state_dict()
    torch.manual_seed(3)
    second = create_model("coatnet_mini_32", num_classes=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stochastic_depth_grows_linearly_from_zero() -> None:
    model = CoAtNet(CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 2, 1), WIDTHS, stochastic_depth=0.5))
    rates = [block.stochastic_depth.rate for stage in model.stages[:2] for block in stage]
    rates += [block.attention_depth.rate for stage in model.stages[2:] for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert model.stages[3][0].feed_forward_depth.rate == model.stages[3][0].attention_depth.rate
