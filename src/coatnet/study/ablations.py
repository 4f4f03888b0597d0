"""A network and its variants, each of which differs in one choice: what the paper ablates. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from coatnet.errors import ConfigError
from coatnet.frozen import Frozen
from coatnet.model.config import CoAtNetConfig
from coatnet.model.size import model_size

if TYPE_CHECKING:
    from coatnet.study.statistics import Ordering, Relation


Claim = Literal["", "~", ">", ">>", "<="]
"""How the base stands to a variant in the paper: as in `statistics`, or no better; nothing where it is silent."""


class Variant(Frozen):
    """A network of an ablation."""

    name: str
    """What is otherwise, as "head size 64"; "base" for the network itself."""
    table: str
    """Where in the paper the question stands."""
    claim: Claim
    config: CoAtNetConfig
    """The network."""


def ablations(base: CoAtNetConfig) -> tuple[Variant, ...]:
    """The base, and its variants.

    Args:
        base: four stages, the last two or more of which attend; in the paper's form of attention.

    Raises:
        ConfigError: another base.
    """
    _check(base)
    after = base.replace(bias_position="after")
    norm = {"batch": "layer", "layer": "batch"}[base.convolution_norm]
    location = {"expand": "depthwise", "depthwise": "expand"}[base.stride_location]
    head_size = _other_head_size(base)
    # Of a head that is smaller, and of a stride that moves into the first convolution, the paper says nothing.
    larger: Claim = ">" if head_size > base.head_size else ""
    later: Claim = "<=" if location == "depthwise" else ""
    variants: list[tuple[str, str, Claim, CoAtNetConfig]] = [
        ("base", "Table 6 to 9", "", base),
        ("no relative attention", "Table 6", ">", base.replace(relative_attention=False)),
        ("bias after the softmax", "section 2.1", "", after),
        *(
            (f"S2 {split.stages[1].depth}, S3 {split.stages[2].depth}", "Table 7", ">", split)
            for split in _splits(base)
        ),
        (f"head size {head_size}", "Table 8", larger, base.replace(head_size=head_size)),
        (f"{norm} norm", "Table 8", "~", base.replace(convolution_norm=norm)),
        (f"stride in {location}", "Table 9", later, base.replace(stride_location=location)),
        ("windows", "section 2.2", "", base.replace(attention="window", attention_window=_window(base))),
        ("linear attention", "section 2.2", ">", base.replace(attention="linear", relative_attention=False)),
        ("ViT stem", "section 2.2", ">>", _with_vit_stem(base)),
    ]
    return tuple(Variant(name=name, table=table, claim=claim, config=config) for name, table, claim, config in variants)


def claims(base: str, variants: Iterable[Variant]) -> Ordering:
    """What the paper says of variants.

    Args:
        base: the name of what they are compared with.
        variants: of `ablations`.
    """
    found: list[tuple[str, Relation, str]] = []
    for one in variants:
        if one.claim == "<=":
            found.append((one.name, ">=", base))
        elif one.claim:
            found.append((base, one.claim, one.name))
    return tuple(found)


def _check(base: CoAtNetConfig) -> None:
    letters = "".join(stage.block for stage in base.stages)
    if len(letters) != 4 or not letters.endswith("TT") or base.stem == "patch":
        raise ConfigError(
            f"layout {base.layout} has no ablations: attention in S3 and S4 is what they are about", "take CCTT or CTTT"
        )
    if (base.attention, base.bias_position, base.relative_attention) != ("global", "before", True):
        raise ConfigError(
            "the base of the ablations has another attention than the paper's",
            "leave attention, bias_position and relative_attention out: they are varied",
        )


def _splits(base: CoAtNetConfig) -> list[CoAtNetConfig]:
    """The blocks of S2 and S3 divided otherwise: Table 7 makes 2 + 18 and 8 + 12 of 6 + 14; others in proportion."""
    first, second, third, fourth = base.stages
    total = second.depth + third.depth
    depths = {max(1, round(second.depth / 3)), min(total - 1, max(second.depth + 1, round(second.depth * 4 / 3)))}
    return [
        base.replace(stages=(first, second.replace(depth=depth), third.replace(depth=total - depth), fourth))
        for depth in sorted(depths - {second.depth})
    ]


def _other_head_size(base: CoAtNetConfig) -> int:
    """Twice as large, as in Table 8; half as large where that does not divide the widths."""
    double = 2 * base.head_size
    fits = all(stage.width % double == 0 for stage in base.stages if stage.block == "T")
    return double if fits else base.head_size // 2


def _grid(base: CoAtNetConfig) -> tuple[int, int]:
    """Tokens of S3."""
    return base.grids(base.image_size, base.image_size)[3]


def _window(base: CoAtNetConfig) -> int:
    """Half the side of S3: 7 at 14 x 14 tokens, Swin's window."""
    return math.ceil(_grid(base)[0] / 2)


def _with_vit_stem(base: CoAtNetConfig) -> CoAtNetConfig:
    """A patch stem of S3's stride and blocks of S3's width, as many as come nearest to the base's multiply-adds."""
    patch = math.prod([base.stem_stride, *(stage.stride for stage in base.stages[:3])])
    width, cost = base.stages[2].width, model_size(base).multiply_adds

    def of(depth: int) -> CoAtNetConfig:
        stage = base.stages[2].replace(depth=depth, stride=1)
        return base.replace(stages=(stage,), stem="patch", stem_width=width, stem_stride=patch)

    one, two = (model_size(of(depth)).multiply_adds for depth in (1, 2))
    return of(max(1, 1 + round((cost - one) / (two - one))))
