"""One forward pass of a member, with what its stages gave and what its attention layers were given.

Shapes: B batch, C channels, H height, W width, N = H * W tokens.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from coatnet.model.attention import Grid, RelativeAttention
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.transformer import TransformerBlock


@dataclass
class Record:
    """What was seen on the way. The tensors hang on the graph if gradients were enabled."""

    logits: Tensor
    """`(B, classes)`."""
    maps: dict[str, Tensor]
    """The output `(B, H, W, C)` of each stage, by its name."""
    tokens: dict[str, tuple[Tensor, Grid]]
    """What each attention layer was given, `(B, N, C)` and its grid, by the name of its block."""


def record(model: CoAtNet, images_BCHW: Tensor) -> Record:
    """Run a member and keep what its stages gave."""
    stages = zip(stage_names(model.network_config), model.stages, strict=True)
    with watched(stages) as maps, watched(attention_layers(model)) as layers:
        logits = model(images_BCHW)
    return Record(
        logits,
        maps={name: call.output for name, call in maps.items()},
        tokens={name: call.inputs for name, call in layers.items()},
    )


class Call(NamedTuple):
    """One call of a layer."""

    inputs: Any
    """The tuple of what it was given."""
    output: Tensor


@contextmanager
def watched(layers: Iterable[tuple[str, nn.Module]]) -> Iterator[dict[str, Call]]:
    """The last call of each layer inside the `with`, by the layer's name.

    Only the calls of this thread are kept, so that the same network may answer others meanwhile.
    """
    calls: dict[str, Call] = {}
    caller = threading.get_ident()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if threading.get_ident() == caller:
                calls[name] = Call(inputs, output)

        return hook

    with ExitStack() as hooks:
        for name, layer in layers:
            hooks.callback(layer.register_forward_hook(keep(name)).remove)
        yield calls


def stage_names(config: CoAtNetConfig) -> list[str]:
    """S1, S2, ... as the paper counts; the halves of a mixed stage are told apart by their letter, as S3C and S3T."""
    numbers = list(itertools.accumulate(int(not stage.continues) for stage in config.stages))
    return [
        f"S{number}" + (stage.block if numbers.count(number) > 1 else "")
        for number, stage in zip(numbers, config.stages, strict=True)
    ]


def attention_layers(model: CoAtNet) -> Iterator[tuple[str, RelativeAttention]]:
    """Name and attention layer of each block with relative attention, from the first on; S3.0 is the first of S3."""
    for name, stage in zip(stage_names(model.network_config), model.stages, strict=True):
        for index, block in enumerate(stage.children()):
            if isinstance(block, TransformerBlock) and isinstance(block.attention, RelativeAttention):
                yield f"{name}.{index}", block.attention
