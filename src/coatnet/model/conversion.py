"""timm's CoAtNets of the paper's architecture (`coatnet_0_224` to `coatnet_5_224`) and ours, to and fro.

Their 1x1 convolutions are our dense layers, their projections are ordered head, query/key/value, channel, and their
tables are `((2H-1)(2W-1), h)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from coatnet.errors import ModelFileError
from coatnet.model.config import CoAtNetConfig

# timm's names of the parts of a block, and ours. The first of two names for one part is the one that is written.
_PARTS = {
    "C": {
        "shortcut.expand": "projection",
        "pre_norm": "norm",
        "conv1_1x1": "expand",
        "norm1": "expand_norm",
        "conv2_kxk": "depthwise",
        "norm2": "depthwise_norm",
        "se.fc1": "squeeze_excitation.reduce",
        "se.fc2": "squeeze_excitation.expand",
        "conv3_1x1": "shrink",
    },
    "T": {
        "shortcut.expand": "projection",
        "norm1.norm": "attention_norm",
        "norm1": "attention_norm",
        "attn.qkv": "attention.query_key_value",
        "attn.rel_pos": "attention.relative_bias",
        "attn.proj": "attention.output",
        "norm2": "feed_forward_norm",
        "mlp.fc1": "feed_forward.0",
        "mlp.fc2": "feed_forward.2",
    },
}
_ENDS = {
    "stem.conv1": "stem.reduce",
    "stem.norm1": "stem.norm",
    "stem.conv2": "stem.mix",
    "head.norm": "head.norm",
    "head.pre_logits.fc": "head.hidden.0",
    "head.fc": "head.classes",
}
_TABLE = "relative_position_bias_table"
_STEM_BIASES = ("stem.reduce.bias", "stem.mix.bias")
# Where timm's coatnet_N_224 as it ships differs from the paper's form, and what it chooses where the paper is silent.
_AS_IT_SHIPS = {
    "stride_location": "depthwise",
    "pool": "average",
    "batch_norm_epsilon": 1e-5,
    "batch_norm_momentum": 0.1,
    "layer_norm_epsilon": 1e-6,
    "gelu": "erf",
}


def is_timm(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are timm's names and not ours."""
    return "stem.conv1.weight" in tensors


def timm_config(tensors: Mapping[str, Tensor], config: CoAtNetConfig) -> CoAtNetConfig:
    """The config of timm's `coatnet_N_224`, as it ships, that these weights belong to.

    What a state dict shows is read from it: stem biases, classes, head size (32 in timm's coatnet_5, 64 in the
    paper's) and the grid of the tables. Where it strides and how it pools leaves no trace there: timm's own choice.

    Args:
        tensors: timm's `state_dict()`.
        config: the member of the same size.
    """
    changes: dict[str, object] = {**_AS_IT_SHIPS, "stem_bias": "stem.conv1.bias" in tensors}
    if "head.fc.weight" in tensors:
        changes["num_classes"] = tensors["head.fc.weight"].shape[0]
    first = next((index for index, stage in enumerate(config.stages) if stage.block == "T"), None)
    table = tensors.get(f"stages.{first}.blocks.0.attn.rel_pos.{_TABLE}")
    if first is not None and table is not None and table.ndim == 2:
        side = (math.isqrt(table.shape[0]) + 1) // 2
        changes["head_size"] = config.stages[first].width // table.shape[1]
        changes["image_size"] = config.image_size_of(first, side)
    return config.replace(**changes)


def from_timm(tensors: Mapping[str, Tensor], config: CoAtNetConfig) -> dict[str, Tensor]:
    """The state of a timm `MaxxVit` in the paper's form under our names and shapes.

    Args:
        tensors: timm's `state_dict()`; their stem has no bias unless the config says so.
        config: the network it becomes: its stages, head size and image size.

    Raises:
        ModelFileError: a tensor that this form does not have.
    """
    converted = dict(_from_timm(name, tensor, config) for name, tensor in tensors.items())
    for name, grid in _tables(config).items():
        if name in converted and converted[name].shape[0] == (2 * grid[0] - 1) * (2 * grid[1] - 1):
            converted[name] = converted[name].T.reshape(-1, 2 * grid[0] - 1, 2 * grid[1] - 1)
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def to_timm(tensors: Mapping[str, Tensor], config: CoAtNetConfig, *, stem_bias: bool = True) -> dict[str, Tensor]:
    """The state of one of our networks under the names and shapes of timm's `MaxxVit`.

    Args:
        tensors: our `state_dict()`.
        config: our network.
        stem_bias: of the `MaxxVitCfg` that it goes into; the stock configurations have False.

    Raises:
        ModelFileError: the stem has a bias that is not zero, and `stem_bias` is False; or a stem of patches.
    """
    if config.stem != "conv":
        raise ModelFileError("timm's MaxxVit has no stem of patches", "only layouts that start with C go to timm")
    if not stem_bias and any(bool(tensors[name].any()) for name in _STEM_BIASES if name in tensors):
        raise ModelFileError(
            "the stem has a bias that is not zero, and timm's stock coatnet_N_224 has none",
            "give stem_bias=True, here and to timm's MaxxVitCfg",
        )
    ours = {name: tensor for name, tensor in tensors.items() if name not in _STEM_BIASES}
    if stem_bias:
        none = tensors["stem.norm.bias"].new_zeros(config.stem_width)
        ours |= {name: tensors.get(name, none) for name in _STEM_BIASES}
    converted = dict(_to_timm(name, tensor, config) for name, tensor in ours.items())
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def _tables(config: CoAtNetConfig) -> dict[str, tuple[int, int]]:
    """Our names of the relative tables, and the grid of each."""
    grids = config.grids(config.image_size, config.image_size)[1:]
    return {
        f"stages.{index}.{block}.attention.relative_bias.table": grid
        for index, (stage, grid) in enumerate(zip(config.stages, grids, strict=True))
        for block in range(stage.depth)
    }


def _from_timm(name: str, tensor: Tensor, config: CoAtNetConfig) -> tuple[str, Tensor]:
    part, _, kind = name.rpartition(".")
    block = re.fullmatch(r"stages\.(\d{1,3})\.blocks\.(\d+)\.(.+)", part)
    letter = config.stages[int(block[1])].block if block and int(block[1]) < len(config.stages) else None
    names = _PARTS[letter] if block and letter else _ENDS
    key = block[3] if block else part
    if key not in names:
        raise ModelFileError(f"{name} is not a part of timm's paper-form CoAtNet", "use weights of coatnet_N_224")
    ours = f"stages.{block[1]}.{block[2]}.{names[key]}" if block else names[key]
    if kind == _TABLE:
        return f"{ours}.table", tensor
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if ours.endswith("query_key_value") and tensor.shape[0] % (3 * config.head_size) == 0:
        by_head = tensor.reshape(-1, 3, config.head_size, *tensor.shape[1:])
        tensor = by_head.transpose(0, 1).flatten(0, 2)
    return f"{ours}.{kind}", tensor


def _to_timm(name: str, tensor: Tensor, config: CoAtNetConfig) -> tuple[str, Tensor]:
    part, _, kind = name.rpartition(".")
    block = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", part)
    if not block:
        return f"{_timm_name(part, _ENDS)}.{kind}", tensor
    letter, first = config.stages[int(block[1])].block, block[2] == "0"
    key = _timm_name(block[3], _PARTS[letter])
    if key == "norm1.norm" and not (first and config.stages[int(block[1])].stride == 2):
        key = "norm1"  # only where timm pools before attention does its norm stand beside a pool
    theirs = f"stages.{block[1]}.blocks.{block[2]}.{key}"
    if kind == "table":
        return f"{theirs}.{_TABLE}", tensor.flatten(1).T
    if key == "attn.qkv":
        by_part = tensor.reshape(3, -1, config.head_size, *tensor.shape[1:])
        tensor = by_part.transpose(0, 1).flatten(0, 2)
    if tensor.ndim == 2:
        tensor = tensor[:, :, None, None]
    return f"{theirs}.{kind}", tensor


def _timm_name(part: str, names: Mapping[str, str]) -> str:
    """timm's name of one of our parts: the first that stands for it."""
    return next(theirs for theirs, ours in names.items() if ours == part)
