import re

import pytest
from pydantic import ValidationError

from coatnet.errors import ConfigError
from coatnet.frozen import explain
from coatnet.model.config import CoAtNetConfig, Stage

DEPTHS, WIDTHS = (2, 1, 1, 1, 1), (8, 16, 32, 32, 32)


def test_layouts_read_back() -> None:
    for layout in ("CCCC", "CCCT", "CCTT", "CTTT"):
        assert CoAtNetConfig.from_layout(layout, DEPTHS, WIDTHS).layout == "-".join(layout)
        assert CoAtNetConfig.from_layout("-".join(layout), DEPTHS, WIDTHS).layout == "-".join(layout)
    assert CoAtNetConfig.from_layout("ViT", (3,), (64,)).layout == "ViT"


def test_mixed_stage_keeps_its_size_and_changes_its_kind() -> None:
    config = CoAtNetConfig.from_layout("C-C-CT-T", (2, 1, 1, 2, 3, 1), (8, 16, 32, 32, 64, 64))
    assert config.layout == "C-C-CT-T"
    assert config.grids(224, 224) == ((112, 112), (56, 56), (28, 28), (14, 14), (14, 14), (7, 7))
    assert [stage.continues for stage in config.stages] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("CTCT", "convolves after attention"),
        ("TTTT", "S1 always convolves"),
        ("CCXT", "not made of C and T"),
        ("", "not made of C and T"),
        ("CCT", "depths has 5 values, layout CCT needs 4"),
    ],
)
def test_layouts_that_cannot_be(layout: str, words: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=re.escape(words)):
        CoAtNetConfig.from_layout(layout, DEPTHS, WIDTHS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 24}, "image_size: Input should be greater than or equal to 32, got 24"),
        ({"head_size": 48}, "stages[2].width 32 is not a multiple of head_size 48; change one of the two"),
        ({"squeeze_ratio": 2.0}, "squeeze_ratio: Input should be less than or equal to 1, got 2.0"),
        ({"pool": "median"}, "pool: Input should be 'max' or 'average', got 'median'"),
        ({"num_clases": 3}, "num_clases: Extra inputs are not permitted, got 3"),
        ({"attention": "linear"}, "linear attention has no relative bias; set relative_attention to false"),
        (
            {"bias_position": "after", "relative_attention": False},
            "bias_position after needs relative_attention; leave one of them out",
        ),
        ({"stochastic_depth": 1.0}, "stochastic_depth: Input should be less than 1, got 1.0"),
    ],
)
def test_bad_values_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CoAtNetConfig.from_layout("CCTT", DEPTHS, WIDTHS, **changes)
    assert explain(caught.value) == words


def test_json_round_trip() -> None:
    config = CoAtNetConfig.from_layout("C-C-CT-T", (2, 1, 1, 2, 3, 1), (8, 16, 32, 32, 64, 64), pool="average")
    assert CoAtNetConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("kind", [CoAtNetConfig, Stage])
def test_every_public_class_attribute_is_a_documented_field(kind: type[CoAtNetConfig] | type[Stage]) -> None:
    annotated = {name for name in kind.__annotations__ if not name.startswith("_")}
    assert annotated == set(kind.model_fields)
    assert all(field.description for field in kind.model_fields.values())


def test_configs_are_frozen_and_replace_validates() -> None:
    config = CoAtNetConfig.from_layout("CCTT", DEPTHS, WIDTHS)
    with pytest.raises(ValidationError):
        config.num_classes = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.replace(num_classes=-1)
    assert config.replace(num_classes=3).num_classes == 3


def test_odd_sizes_are_rounded_up() -> None:
    config = CoAtNetConfig.from_layout("CCTT", DEPTHS, WIDTHS)
    assert config.grids(33, 97) == ((17, 49), (9, 25), (5, 13), (3, 7), (2, 4))
