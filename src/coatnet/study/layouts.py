"""Layouts at one budget of parameters and multiply-adds: what makes their comparison fair. Imports no torch.

The paper compares ViT_REL, C-C-C-C, C-C-C-T, C-C-T-T and C-T-T-T of "similar parameter size and computational cost"
(section 2.2) and prints no sizes. Ours come from a search that keeps the paper's proportions as far as the budget lets
it; docs/study.md lists them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from coatnet.errors import ConfigError
from coatnet.frozen import Frozen
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY
from coatnet.model.size import model_size
from coatnet.study.candidates import (
    FURTHER_REACH,
    REACH,
    WIDTH_UNIT,
    Asked,
    Candidates,
    Floats,
    build,
    hybrid_candidates,
    vit_candidates,
)

LAYOUTS = ("CCCC", "CCCT", "CCTT", "CTTT", "ViT")
"""The five of the paper's section 2.2."""
VIT = "ViT"
"""ViT_REL; the others are made of four stages."""
RATIOS = (1.02, 1.05)
"""The largest of the layouts has at most so many times the parameters, and the multiply-adds, of the smallest."""
NEAR = (1.01, 1.05)
"""Factors within which a size is as good as the one that was asked for: then the likelier proportions win."""
MOST_ANCHORS = 200
"""Common sizes that are tried, the nearest to the request first."""
SMALL_IMAGE = 128
"""Up to this size networks take the choices of our small members (GELU, norms, first weights), above it the paper's."""
STRIDES = {16: (2, 2, 2, 2), 8: (1, 2, 2, 2), 4: (1, 2, 2, 1)}
"""By the stride at which S3 stands: strides of the stem, S1, S2 and S3. 16 is the paper's; 8 is that of our members for
32 px, whose stem keeps every pixel."""
FEWEST_TOKENS, LIKELY_TOKENS = 4, 8
"""Tokens in a row that S3 and S4 keep, as in our small members; and that S3 has where no patch was asked for: fewer
leave ViT_REL, all of whose blocks see so few, cheaper than what convolves before."""


class MatchedLayout(Frozen):
    """A layout with the sizes that the search gave it."""

    layout: str
    """As it was asked for: "CCTT" or "ViT"."""
    config: CoAtNetConfig
    """The network."""
    parameters: int
    """Trainable numbers."""
    multiply_adds: int
    """For one image."""


class Budget(NamedTuple):
    """Parameters and multiply-adds; None where nothing was asked."""

    parameters: float | None
    multiply_adds: float | None


def parse_budget(budget: str, image_size: int | None = None, num_classes: int = 1000) -> Budget:
    """A budget in numbers.

    Args:
        budget: parameters as "25M", multiply-adds as "4.2G", or a member of the family: its size in both.
        image_size: of the member, pixels; its own if not given.
        num_classes: of the member.

    Raises:
        ConfigError: none of these.
    """
    found = re.fullmatch(r"(\d{1,5}(?:\.\d{1,5})?)([MG])", budget)
    if found and float(found[1]):
        amount = float(found[1])
        return Budget(amount * 1e6, None) if found[2] == "M" else Budget(None, amount * 1e9)
    if budget not in FAMILY:
        raise ConfigError(
            f"{budget!r:.60} is no budget", "write parameters as 25M, multiply-adds as 4.2G, or a member as coatnet_0"
        )
    config = FAMILY[budget]
    return Budget(*model_size(config.replace(image_size=image_size or config.image_size, num_classes=num_classes)))


def distance(matched: Sequence[MatchedLayout], asked: Budget) -> Budget:
    """How far the layouts' mean is from the request: 0.21 is 21 % more; None where nothing was asked."""

    def excess(sizes: Sequence[int], wanted: float | None) -> float | None:
        return None if wanted is None else sum(sizes) / len(sizes) / wanted - 1

    return Budget(
        excess([one.parameters for one in matched], asked.parameters),
        excess([one.multiply_adds for one in matched], asked.multiply_adds),
    )


def matched_layouts(
    budget: str,
    layouts: Sequence[str] = LAYOUTS,
    *,
    image_size: int | None = None,
    num_classes: int = 1000,
    patch: int | None = None,
    **choices: object,
) -> tuple[MatchedLayout, ...]:
    """Networks of several layouts that cost the same: parameters within 2 %, multiply-adds within 5 % of each other.

    For a member's name they come as near as they can to its parameters first, and then to its multiply-adds: a ViT_REL
    of 25 million parameters needs at least 5 G at 224 px, where CoAtNet-0 has 4.1 G.

    Args:
        budget: see `parse_budget`.
        layouts: a letter for each of S1 to S4, as "CCTT"; or "ViT", ViT_REL of at least 6 blocks.
        image_size: pixels; if not given, that of the member, else 224.
        num_classes: logits.
        patch: of ViT_REL, and the stride at which S3 stands in the others: 4, 8 or 16. If not given, the largest that
            leaves 8 x 8 tokens: 16 from 128 px, 8 from 64 px, 4 at 32 px.
        choices: fields of the config that all share, as `relative_attention=False`. The others are those of the
            member that is the budget, else of coatnet_0, or for images up to 128 px of coatnet_mini_32.

    Returns:
        In the order of `layouts`.

    Raises:
        ConfigError: no budget, no such layout or choice, or a size that these layouts cannot have together.
    """
    if not layouts:
        raise ConfigError("no layout is named", f"name some of {', '.join(LAYOUTS)}, or others")
    like, size = _like(budget, image_size)
    shared = _choices(like, {**choices, "image_size": size, "num_classes": num_classes})
    strides = _strides(size, patch)
    asked = parse_budget(budget, size, num_classes)

    def candidates_of(layout: str, reach: float) -> Candidates:
        if layout == VIT:
            return vit_candidates(math.prod(strides[:4]), shared, Asked(*asked, reach))
        return hybrid_candidates(layout, strides, like.stem_width / like.stages[0].width, shared, Asked(*asked, reach))

    found = [candidates_of(layout, REACH) for layout in layouts]
    places = _match(found, asked)
    if places is None:
        near = _nearby([candidates_of(layout, FURTHER_REACH) for layout in layouts], asked)
        raise ConfigError(
            f"{', '.join(layouts)} cannot all have the size {budget} at {size} px",
            f"{' and '.join(near) or 'nothing within twice or half of it'} can be had; or give another patch, "
            f"or leave {layouts[_scarcest(found)]} out",
        )
    return tuple(
        _matched(layout, candidates, place, strides, shared)
        for layout, candidates, place in zip(layouts, found, places, strict=True)
    )


def _like(budget: str, image_size: int | None) -> tuple[CoAtNetConfig, int]:
    """The member whose choices the layouts take, and the image size."""
    if budget in FAMILY:
        return FAMILY[budget], image_size or FAMILY[budget].image_size
    size = image_size or FAMILY["coatnet_0"].image_size
    return FAMILY["coatnet_0" if size > SMALL_IMAGE else "coatnet_mini_32"], size


def _choices(like: CoAtNetConfig, given: Mapping[str, object]) -> dict[str, Any]:
    """Every field of the configs that the search does not set."""
    searched = {"stages", "stem", "stem_width", "stem_stride"}
    if unwanted := sorted(searched & given.keys()):
        raise ConfigError(f"{unwanted[0]} is what the search finds", "leave it out, or build the network by its config")
    choices = {**like.model_dump(exclude=searched), **given}
    build("C", (2, 1), (WIDTH_UNIT, WIDTH_UNIT), (2, 2), choices)  # a bad one is told before the search
    return choices


def _strides(image_size: int, patch: int | None) -> tuple[int, ...]:
    """Of the stem and of S1 to S4."""
    fitting = [stride for stride in STRIDES if image_size >= FEWEST_TOKENS * stride]
    patch = patch or max(stride for stride in STRIDES if image_size >= LIKELY_TOKENS * stride)
    if patch not in fitting:
        raise ConfigError(
            f"patch {patch} at {image_size} px, expected {' or '.join(map(str, fitting))}",
            "S3 stands at this stride, and has at least 4 x 4 tokens",
        )
    return (*STRIDES[patch], 2 if image_size >= FEWEST_TOKENS * 2 * patch else 1)


def _match(found: Sequence[Candidates], asked: Budget) -> list[int] | None:
    """Places of one network of each layout, all near one size: the nearest to the request, then the likeliest."""
    scarcest = _scarcest(found)
    best: tuple[tuple[float, ...], list[int]] | None = None
    for anchor in _nearest(found[scarcest], asked):
        size = found[scarcest].sizes[anchor]
        places = [candidates.likeliest(size, RATIOS) for candidates in found]
        chosen = [place for place in places if place is not None]
        if len(chosen) < len(found):
            continue
        chosen[scarcest] = anchor
        unlikeness = sum(float(one.unlikeness[place]) for one, place in zip(found, chosen, strict=True))
        rank = (*_gaps(size[None], asked)[0], unlikeness)
        if best is None or rank < best[0]:
            best = rank, chosen
    return best and best[1]


def _nearby(found: Sequence[Candidates], asked: Budget) -> list[str]:
    """The nearest budgets below and above the request that all have, as they are written."""
    scarcest, near = _scarcest(found), list[str]()
    whole = found[scarcest]
    index, wanted = next((index, wanted) for index, wanted in enumerate(asked) if wanted)
    for side in (whole.sizes[:, index] < wanted, whole.sizes[:, index] > wanted):
        tried = list(found)
        tried[scarcest] = Candidates(whole.depths[side], whole.widths[side], whole.sizes[side], whole.unlikeness[side])
        places = _match(tried, asked)
        if places is not None:
            size = tried[scarcest].sizes[places[scarcest], index]
            near.append(f"{float(f'{size / 1e9:.3g}'):g}G" if index else f"{float(f'{size / 1e6:.3g}'):g}M")
    return near


def _scarcest(found: Sequence[Candidates]) -> int:
    """The layout with the fewest networks: the others must come to it."""
    return min(range(len(found)), key=lambda index: len(found[index].sizes))


def _nearest(candidates: Candidates, asked: Budget) -> list[int]:
    keys = (candidates.unlikeness, *reversed(_gaps(candidates.sizes, asked).T))
    return [int(place) for place in np.lexsort(keys)[:MOST_ANCHORS]]


def _gaps(sizes: Floats, asked: Budget) -> Floats:
    """How far sizes `(K, 2)` are from what was asked, `(K, 1 or 2)`, in logarithms."""
    columns = [index for index, wanted in enumerate(asked) if wanted]
    gaps = np.abs(np.log(sizes[:, columns] / [asked[index] for index in columns]))
    return np.maximum(gaps, [math.log(NEAR[index]) for index in columns])


def _matched(
    layout: str, candidates: Candidates, place: int, strides: Sequence[int], shared: Mapping[str, Any]
) -> MatchedLayout:
    depths, widths = candidates.depths[place].tolist(), candidates.widths[place].tolist()
    if layout == VIT:
        config = build(layout, depths, widths, (math.prod(strides[:4]),), shared)
    else:
        config = build(layout, (2, *depths), widths, strides, shared)
    size = model_size(config)
    return MatchedLayout(layout=layout, config=config, parameters=size.parameters, multiply_adds=size.multiply_adds)
