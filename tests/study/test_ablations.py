import pytest
import torch

from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, create_model
from coatnet.model.layers import ordered_layers
from coatnet.model.size import model_size
from coatnet.study.ablations import ablations, claims
from coatnet.study.contenders import CONTENDERS

SMALL = FAMILY["coatnet_mini_32"].replace(num_classes=3)
ASKED = {
    "no relative attention": {"relative_attention"},
    "bias after the softmax": {"bias_position"},
    "layer norm": {"convolution_norm"},
    "stride in depthwise": {"stride_location"},
    "windows": {"attention", "attention_window"},
    "linear attention": {"attention", "relative_attention"},
}


def changed_fields(base: CoAtNetConfig, other: CoAtNetConfig) -> set[str]:
    return {name for name in type(base).model_fields if getattr(base, name) != getattr(other, name)}


def test_the_papers_tables_are_asked_of_coatnet_2() -> None:
    base = FAMILY["coatnet_2"]
    variants = {variant.name: variant for variant in ablations(base)}
    assert variants["base"].config == base
    for name, fields in ASKED.items():
        assert changed_fields(base, variants[name].config) <= fields
    assert {variants[name].table for name in ("S2 2, S3 18", "S2 8, S3 12")} == {"Table 7"}
    assert variants["head size 64"].config == base.replace(head_size=64)
    # Table 9's costs of stride in the depthwise convolution
    cost = model_size(variants["stride in depthwise"].config).multiply_adds
    assert cost == pytest.approx(16.427e9, rel=1e-3)
    assert variants["windows"].config.attention_window == 7
    ordering = claims("it", variants.values())
    assert ("it", ">", "no relative attention") in ordering
    assert ("it", "~", "layer norm") in ordering
    assert ("stride in depthwise", ">=", "it") in ordering
    assert not {"windows", "bias after the softmax"} & {
        name for better, _, worse in ordering for name in (better, worse)
    }
    vit = variants["ViT stem"].config
    assert (vit.layout, vit.stem_stride, vit.stages[0].width) == ("ViT", 16, 512)
    assert model_size(vit).multiply_adds == pytest.approx(model_size(base).multiply_adds, rel=0.05)


@pytest.mark.parametrize("position", range(len(ablations(SMALL))))
def test_each_variant_is_another_network_that_learns(position: int) -> None:
    variants = ablations(SMALL)
    assert len({variant.name for variant in variants}) == len(variants)
    variant = variants[position]
    assert sum(other.config == variant.config for other in variants) == 1
    torch.manual_seed(0)
    model = create_model(variant.config).train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (SMALL.replace(stages=SMALL.stages[:3]), "layout C-C-T has no ablations"),
        (FAMILY["coatnet_6"], "layout C-C-CT-T has no ablations"),
        (SMALL.replace(bias_position="after"), "another attention than the paper's"),
    ],
)
def test_other_bases_are_refused(base: CoAtNetConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ablations(base)


@pytest.mark.parametrize("name", CONTENDERS)
def test_contenders_are_built_for_small_images_too(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=10, image_size=32)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    blocks = ordered_layers(model)  # what training needs of every network
    assert len(blocks) > 10
    assert {one for block in blocks for one in block.parameters()} == set(model.parameters())
