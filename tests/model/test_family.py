"""The paper is a test suite: counts of section 8.1 of the project's notes on Tables 3, 4, 11 and 12."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, PAPER, SMALL, create_model, member
from coatnet.model.size import model_size, part_sizes

PARAMETERS = {
    "coatnet_0": 25_036_948,
    "coatnet_1": 42_225_904,
    "coatnet_2": 74_685_000,
    "coatnet_3": 166_966_648,
    "coatnet_4": 275_425_672,
    "coatnet_5": 687_053_336,
    "coatnet_6": 1_471_125_616,
    "coatnet_7": 2_441_973_112,
}
STAGE_PARAMETERS = {
    "coatnet_0": (38_848, 189_584, 1_084_752, 8_768_604, 13_594_032, 1_361_128),
    "coatnet_1": (38_848, 189_584, 2_224_800, 24_817_512, 13_594_032, 1_361_128),
    "coatnet_2": (151_424, 342_848, 3_924_864, 44_034_528, 24_154_688, 2_076_648),
    "coatnet_3": (337_728, 760_032, 8_762_688, 98_885_328, 54_319_968, 3_900_904),
    "coatnet_4": (337_728, 760_032, 17_746_560, 198_360_480, 54_319_968, 3_900_904),
    "coatnet_5": (337_728, 1_324_800, 31_428_096, 549_082_544, 98_630_720, 6_249_448),
}
GIGA_MULTIPLY_ADDS = {
    "coatnet_0": 4.142,
    "coatnet_1": 8.239,
    "coatnet_2": 15.502,
    "coatnet_3": 34.372,
    "coatnet_4": 60.236,
    "coatnet_5": 142.181,
}
WITH_DEPTHWISE_STRIDE = {"coatnet_0": 4.547, "coatnet_1": 8.643, "coatnet_2": 16.427, "coatnet_3": 36.453}


def on_meta(config: CoAtNetConfig) -> CoAtNet:
    with torch.device("meta"):
        return CoAtNet(config).eval()


def counted_multiply_adds(config: CoAtNetConfig) -> float:
    """By torch's own counter on a network without memory."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        on_meta(config)(torch.empty(1, 3, config.image_size, config.image_size))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_to_the_unit(name: str) -> None:
    built = sum(parameter.numel() for parameter in on_meta(PAPER[name]).parameters())
    assert built == PARAMETERS[name]
    assert model_size(PAPER[name]).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", STAGE_PARAMETERS)
def test_parameters_of_each_stage(name: str) -> None:
    assert tuple(part.parameters for part in part_sizes(PAPER[name]).values()) == STAGE_PARAMETERS[name]
    model = on_meta(PAPER[name])
    parts = (model.stem, *model.stages, model.head)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == STAGE_PARAMETERS[name]


@pytest.mark.parametrize("name", GIGA_MULTIPLY_ADDS)
def test_multiply_adds_at_224(name: str) -> None:
    assert model_size(PAPER[name]).multiply_adds / 1e9 == pytest.approx(GIGA_MULTIPLY_ADDS[name], rel=1e-3)
    assert counted_multiply_adds(PAPER[name]) / 1e9 == pytest.approx(GIGA_MULTIPLY_ADDS[name], rel=1e-3)


@pytest.mark.parametrize("name", WITH_DEPTHWISE_STRIDE)
def test_multiply_adds_with_depthwise_stride(name: str) -> None:
    config = PAPER[name].replace(stride_location="depthwise")
    assert model_size(config).multiply_adds / 1e9 == pytest.approx(WITH_DEPTHWISE_STRIDE[name], rel=1e-3)
    assert counted_multiply_adds(config) / 1e9 == pytest.approx(WITH_DEPTHWISE_STRIDE[name], rel=1e-3)


def test_the_table_of_coatnet_6_gives_fewer_parameters_than_its_text() -> None:
    stages = PAPER["coatnet_6"].stages
    as_printed = PAPER["coatnet_6"].replace(stages=(*stages[:-1], stages[-1].replace(width=2048)))
    assert model_size(as_printed).parameters == 1_348_435_424


OTHER_FORMS = {
    "ViT": CoAtNetConfig.from_layout("ViT", (3,), (64,), strides=(8,), image_size=64),
    "CCCC": CoAtNetConfig.from_layout("CCCC", (2, 1, 2, 1, 1), (8, 16, 32, 48, 64), image_size=64),
    "CTTT": CoAtNetConfig.from_layout("CTTT", (2, 1, 2, 1, 1), (8, 16, 32, 64, 64), image_size=64),
    "bias after": SMALL["coatnet_mini_32"].replace(bias_position="after"),
    "windows": SMALL["coatnet_mini_64"].replace(image_size=96, attention="window", attention_window=4),
    "windows wider than the map": SMALL["coatnet_mini_32"].replace(attention="window"),
    "linear": SMALL["coatnet_mini_32"].replace(attention="linear", relative_attention=False),
    "no squeeze": SMALL["coatnet_mini_32"].replace(squeeze_ratio=0.0),
    "no table": SMALL["coatnet_mini_32"].replace(relative_attention=False),
    "no hidden layer": SMALL["coatnet_mini_32"].replace(hidden_width=0),
    "odd size": SMALL["coatnet_mini_32"].replace(image_size=45),
    "layer norm, no stem bias": SMALL["coatnet_mini_32"].replace(convolution_norm="layer", stem_bias=False),
}


@pytest.mark.parametrize("form", [*OTHER_FORMS, *SMALL])
def test_counting_agrees_with_the_network_built(form: str) -> None:
    config = {**OTHER_FORMS, **SMALL}[form]
    assert model_size(config).parameters == sum(parameter.numel() for parameter in on_meta(config).parameters())
    assert model_size(config).multiply_adds == counted_multiply_adds(config)


@pytest.mark.parametrize("name", SMALL)
def test_small_members_keep_16_tokens_at_their_own_size(name: str) -> None:
    config = SMALL[name]
    assert name.endswith(f"_{config.image_size}")
    height, width = config.grids(config.image_size, config.image_size)[-1]
    assert height >= 4
    assert width >= 4


def test_create_model_takes_changes_and_names_what_is_wrong() -> None:
    assert create_model("coatnet_mini_32", num_classes=7).head.classes.out_features == 7
    with pytest.raises(ConfigError, match=r"there is no model 'coatnet_9'; did you mean coatnet_"):
        create_model("coatnet_9")
    with pytest.raises(ConfigError, match=r"image_size: Input should be greater than or equal to 32, got 16"):
        create_model("coatnet_0", image_size=16)
    with pytest.raises(ConfigError, match=r"create_model has no option 'num_clases'; did you mean num_classes\?"):
        create_model("coatnet_mini_32", num_clases=7)
    assert member("coatnet_3") is FAMILY["coatnet_3"]


@pytest.mark.parametrize("name", ["coatnet_mini_32", "timm/test_vit"])
def test_timms_names_of_options_are_taken(name: str) -> None:
    config = create_model(name, img_size=160, drop_path_rate=0.2).network_config
    assert (config.image_size, config.stochastic_depth) == (160, 0.2)
    with pytest.raises(ConfigError, match="image_size is given twice, by our name and by timm's, img_size"):
        create_model(name, img_size=160, image_size=160)
    for option in ("drop_rate", "features_only", "out_indices", "global_pool"):
        with pytest.raises(ConfigError, match=f"create_model has no option '{option}'; .*(stochastic_depth|network)"):
            create_model(name, **{option: 1})
    assert create_model("coatnet_mini_32", in_chans=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 1000)


@pytest.mark.parametrize("name", ["coatnet_mini_32", "timm/test_convnext"])
def test_no_config_that_other_libraries_take_for_theirs(name: str) -> None:
    model = create_model(name)
    assert model.network_config == member(name)
    assert not hasattr(model, "config")
