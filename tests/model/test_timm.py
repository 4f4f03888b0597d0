"""An outside reference: timm's MaxxVit in the paper's form gives the same logits from the same random weights.

Everything is drawn at random, for at the usual initial values a missing norm hardly moves the logits.
"""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch import Tensor, nn

from coatnet.errors import ModelFileError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.conversion import from_timm, is_timm, timm_config, to_timm
from coatnet.model.family import create_model, member
from coatnet.model.transformer import TransformerBlock
from coatnet.model.weights import fill

# What timm's coatnet_N_224 chooses where the paper is silent.
TIMM_CHOICES = {"stem_bias": False, "batch_norm_epsilon": 1e-5, "layer_norm_epsilon": 1e-6, "gelu": "erf"}
# How it differs from the paper as it ships.
AS_IT_SHIPS = {"stride_location": "depthwise", "pool": "average"}
TOLERANCE = 1e-5
"""Of the logits' standard deviation, in float32."""


def timm_model(name: str, paper_form: bool) -> MaxxVit:
    config = model_cfgs[name]
    if paper_form:
        config = dataclasses.replace(
            config,
            conv_cfg=dataclasses.replace(config.conv_cfg, stride_mode="1x1", pool_type="max2"),
            transformer_cfg=dataclasses.replace(config.transformer_cfg, pool_type="max2"),
        )
    model = MaxxVit(config, img_size=224).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "relative" not in key:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif "norm" in key and key.endswith("weight"):
                parameter.uniform_(0.5, 2)
            else:
                parameter.normal_(std=0.5)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(std=0.5)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def same_weights(name: str, paper_form: bool) -> tuple[MaxxVit, CoAtNet]:
    torch.manual_seed(0)
    theirs = timm_model(name, paper_form)
    ours = create_model(name, **TIMM_CHOICES, **({} if paper_form else AS_IT_SHIPS)).eval()
    fill(ours, from_timm(theirs.state_dict(), ours.network_config), name)
    return theirs, ours


def difference(theirs: nn.Module, ours: nn.Module) -> float:
    """Largest difference of the logits, in standard deviations of theirs."""
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    return float((expected - found).abs().max() / expected.std())


@pytest.mark.parametrize("paper_form", [True, False], ids=["paper's form", "as it ships"])
@pytest.mark.parametrize("name", ["coatnet_0", "coatnet_1", pytest.param("coatnet_2", marks=pytest.mark.slow)])
def test_same_weights_same_logits(name: str, paper_form: bool) -> None:
    assert difference(*same_weights(name, paper_form)) < TOLERANCE


def without_pre_norm_of_convolution(model: CoAtNet) -> None:
    model.stages[1][1].norm = nn.Identity()


def without_pre_norm_of_attention(model: CoAtNet) -> None:
    model.stages[2][1].attention_norm = nn.Identity()


def without_pre_norm_of_feed_forward(model: CoAtNet) -> None:
    model.stages[3][1].feed_forward_norm = nn.Identity()


class NormAfterPool(nn.Module):
    """The wrong order, in the place of the pool; the norm itself is taken away."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.norm, self.pool = block.attention_norm, block.pool
        self.is_shortcut = False

    def forward(self, x_BHWC: Tensor) -> Tensor:
        self.is_shortcut, was_shortcut = not self.is_shortcut, self.is_shortcut
        return self.pool(x_BHWC) if was_shortcut else self.norm(self.pool(x_BHWC))


def norm_and_pool_swapped(model: CoAtNet) -> None:
    block = model.stages[2][0]
    block.pool, block.attention_norm = NormAfterPool(block), nn.Identity()


def table_transposed(model: CoAtNet) -> None:
    table = model.stages[2][0].attention.relative_bias.table
    table.data = table.data.transpose(1, 2).contiguous()


@pytest.mark.parametrize(
    "mutate",
    [
        without_pre_norm_of_convolution,
        without_pre_norm_of_attention,
        without_pre_norm_of_feed_forward,
        norm_and_pool_swapped,
        table_transposed,
    ],
)
def test_the_comparison_sees_a_wrong_network(mutate: Callable[[CoAtNet], None]) -> None:
    theirs, ours = same_weights("coatnet_0", True)
    mutate(ours)
    assert difference(theirs, ours) > 100 * TOLERANCE


def test_another_squeeze_base_does_not_take_the_weights() -> None:
    theirs, ours = timm_model("coatnet_0", True), create_model("coatnet_0", **TIMM_CHOICES, squeeze_ratio=1.0)
    with pytest.raises(ModelFileError, match=r"of another shape \(15\): stages.0.0.squeeze_excitation.expand.weight"):
        fill(ours, from_timm(theirs.state_dict(), ours.network_config), "timm")


def test_a_stem_bias_that_is_missing_is_named() -> None:
    theirs, ours = timm_model("coatnet_0", True), create_model("coatnet_0", **{**TIMM_CHOICES, "stem_bias": True})
    with pytest.raises(ModelFileError, match=r"in the model only \(2\): stem.mix.bias, stem.reduce.bias"):
        fill(ours, from_timm(theirs.state_dict(), ours.network_config), "timm")


def test_another_form_is_refused() -> None:
    config = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32))
    with pytest.raises(ModelFileError, match=r"stages.0.blocks.0.rmlp.weight is not a part of timm's paper-form"):
        from_timm({"stages.0.blocks.0.rmlp.weight": torch.zeros(1)}, config)


# --- weights to and fro ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"coatnet_{number}" for number in range(6)])
def test_every_published_size_fits_by_its_shapes_alone(name: str) -> None:
    """-5 too, whose heads are 32 channels wide in timm and 64 in the paper."""
    with torch.device("meta"):
        theirs = MaxxVit(model_cfgs[name], img_size=224, num_classes=12).state_dict()
        config = timm_config(theirs, member(name))
        ours = create_model(config).state_dict()
    assert is_timm(theirs)
    assert not is_timm(ours)
    assert (config.num_classes, config.head_size, config.stem_bias, config.image_size) == (12, 32, False, 224)
    converted = from_timm(theirs, config)
    assert {key: tensor.shape for key, tensor in converted.items()} == {
        key: tensor.shape for key, tensor in ours.items()
    }
    back = to_timm(converted, config, stem_bias=False)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in theirs.items()}


@pytest.mark.parametrize("image_size", [192, 256])
def test_the_size_of_the_tables_is_read_from_the_file(image_size: int) -> None:
    with torch.device("meta"):
        theirs = MaxxVit(model_cfgs["coatnet_0"], img_size=image_size).state_dict()
    assert timm_config(theirs, member("coatnet_0")).image_size == image_size


def ours_at_random(**changes: object) -> CoAtNet:
    torch.manual_seed(0)
    ours = create_model("coatnet_0", **{**TIMM_CHOICES, **AS_IT_SHIPS, **changes}).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    return ours


def as_timm(stem_bias: bool) -> MaxxVit:
    return MaxxVit(dataclasses.replace(model_cfgs["coatnet_0"], stem_bias=stem_bias), img_size=224).eval()


@pytest.mark.parametrize("has_bias", [True, False])
def test_ours_runs_in_timm(has_bias: bool) -> None:
    ours, theirs = ours_at_random(stem_bias=has_bias), as_timm(stem_bias=True)
    theirs.load_state_dict(to_timm(ours.state_dict(), ours.network_config), strict=True)
    assert difference(theirs, ours) < TOLERANCE


def test_the_stock_configuration_takes_ours_only_without_a_stem_bias() -> None:
    ours, theirs = ours_at_random(stem_bias=True), as_timm(stem_bias=False)
    with pytest.raises(ModelFileError, match=r"the stem has a bias that is not zero") as caught:
        to_timm(ours.state_dict(), ours.network_config, stem_bias=False)
    assert "stem_bias=True" in caught.value.hint
    with torch.no_grad():
        ours.stem.reduce.bias.zero_()
        ours.stem.mix.bias.zero_()
    theirs.load_state_dict(to_timm(ours.state_dict(), ours.network_config, stem_bias=False), strict=True)
    assert difference(theirs, ours) < TOLERANCE


def test_to_timm_and_back_is_the_same() -> None:
    ours = ours_at_random(stem_bias=True)
    back = from_timm(to_timm(ours.state_dict(), ours.network_config), ours.network_config)
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())


def test_a_stem_of_patches_is_not_timms() -> None:
    vit = create_model(CoAtNetConfig.from_layout("ViT", (1,), (32,), image_size=32))
    with pytest.raises(ModelFileError, match="no stem of patches"):
        to_timm(vit.state_dict(), vit.network_config)
