import itertools
import re
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet
from coatnet.study.layouts import LAYOUTS, Budget, MatchedLayout, distance, matched_layouts, parse_budget


@pytest.fixture(scope="module")
def large() -> tuple[MatchedLayout, ...]:
    return matched_layouts("coatnet_0")


@pytest.fixture(scope="module")
def small() -> tuple[MatchedLayout, ...]:
    return matched_layouts("3M", image_size=32, num_classes=10)


@pytest.fixture(params=["large", "small"])
def matched(request) -> tuple[MatchedLayout, ...]:
    return request.getfixturevalue(request.param)


def test_the_five_cost_the_same(matched) -> None:
    assert tuple(one.layout for one in matched) == LAYOUTS
    for first, second in itertools.combinations(matched, 2):
        assert abs(first.parameters / second.parameters - 1) < 0.02
        assert abs(first.multiply_adds / second.multiply_adds - 1) < 0.05


def test_sizes_are_those_of_the_networks_built(matched) -> None:
    for one in matched:
        image_size = one.config.image_size
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network = CoAtNet(one.config).eval()
            network(torch.empty(1, 3, image_size, image_size))
        assert one.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert one.multiply_adds == counter.get_total_flops() // 2


def test_layouts_are_what_they_are_called(matched) -> None:
    for one in matched:
        assert one.config.layout.replace("-", "") == one.layout
        for stage in one.config.stages:
            assert stage.width % (32 if stage.block == "T" else 8) == 0


def test_vit_has_the_form_of_the_study(matched) -> None:
    *others, vit = matched
    (stage,) = vit.config.stages
    assert stage.depth >= 6
    assert vit.config.expansion == 4
    assert vit.config.head_hidden_width == stage.width  # the standard head
    assert vit.config.relative_attention
    for one in others:  # its tokens are those of the others' S3
        assert one.config.grids(*[one.config.image_size] * 2)[3] == vit.config.grids(*[vit.config.image_size] * 2)[1]


def test_at_224_they_come_as_near_to_coatnet_0_as_vit_can(large) -> None:
    assert large[-1].config.stem_stride == 16
    off = distance(large, parse_budget("coatnet_0"))
    assert abs(off.parameters) < 0.02
    assert 0.15 < off.multiply_adds < 0.25


def test_at_32_the_stem_keeps_every_pixel(small) -> None:
    *others, vit = small
    assert vit.config.stem_stride == 4
    assert {one.config.stem_stride for one in others} == {1}
    off = distance(small, parse_budget("3M"))
    assert abs(off.parameters) < 0.06
    assert off.multiply_adds is None


def test_choices_are_shared_and_small_images_take_those_of_the_small_members(small) -> None:
    assert {(one.config.gelu, one.config.initialisation, one.config.num_classes) for one in small} == {
        ("erf", "fan", 10)
    }
    changed = matched_layouts("3M", ("CCTT", "CTTT"), image_size=32, patch=8, relative_attention=False, gelu="tanh")
    for one in changed:
        assert (one.config.relative_attention, one.config.gelu) == (False, "tanh")
        assert one.config.grids(32, 32)[3:] == ((4, 4), (4, 4))


def test_multiply_adds_can_be_the_request() -> None:
    matched = matched_layouts("0.05G", ("CCCC", "CCTT"), image_size=32, num_classes=10)
    assert abs(distance(matched, Budget(None, 0.05e9)).multiply_adds) < 0.05


def test_budgets() -> None:
    assert parse_budget("25M") == (25e6, None)
    assert parse_budget("4.2G") == (None, 4.2e9)
    assert parse_budget("coatnet_0") == (25_036_948, pytest.approx(4.142e9, rel=1e-3))
    assert parse_budget("coatnet_0", 384).multiply_adds == pytest.approx(13.05e9, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "choices", "words"),
    [
        (("25",), {}, "'25' is no budget"),
        (("0M",), {}, "'0M' is no budget"),
        (("25M", ("CCT",)), {}, "layout 'CCT' has 3 stages"),
        (("25M", ("CTCT",)), {}, "convolves after attention"),
        (("25M", ()), {}, "no layout is named"),
        (("25M",), {"patch": 7}, "patch 7 at 224 px, expected 16 or 8 or 4"),
        (("3M",), {"image_size": 32, "patch": 16}, "patch 16 at 32 px, expected 8 or 4"),
        (("3M",), {"image_size": 16}, "image_size: Input should be greater than or equal to 32, got 16"),
        (("3M",), {"head_size": 0}, "head_size: Input should be greater than 0, got 0"),
        (("3M",), {"stem": "patch"}, "stem is what the search finds"),
        (("3M",), {"image_size": 32, "num_classes": 10, "patch": 8}, "cannot all have the size 3M at 32 px"),
        (("0.001M", ("ViT",)), {}, "not even the smallest network is so small"),
    ],
)
def test_what_cannot_be_is_told(arguments, choices, words) -> None:
    with pytest.raises(ConfigError, match=words):
        matched_layouts(*arguments, **choices)


def test_the_nearest_budgets_that_can_be_had_are_told() -> None:
    """On either side of the request; and asked for, they are found."""
    with pytest.raises(ConfigError) as caught:
        matched_layouts("1.2M", image_size=32, num_classes=10)
    below, above = re.findall(r"[\d.]+M", caught.value.hint)
    assert parse_budget(below).parameters < 1.2e6 < parse_budget(above).parameters
    for budget in (below, above):
        matched = matched_layouts(budget, image_size=32, num_classes=10)
        assert abs(distance(matched, parse_budget(budget)).parameters) < 0.02


def test_the_search_needs_no_torch() -> None:
    code = "import coatnet.study.layouts, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
