"""Weights in files: save, load with a report of every mismatch, and conversion from timm's paper-form CoAtNets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coatnet.errors import ModelFileError
from coatnet.model.config import CoAtNetConfig

SHOWN = 5
"""Names listed of each kind of mismatch before the rest is only counted."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the parameters and running statistics of `model` to a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into `model`; nothing is ever loaded partly.

    Raises:
        ModelFileError: the file is missing, is no safetensors file, or holds other tensors than the model.
    """
    fill(model, read_tensors(path), str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist", "give the folder that a training run wrote")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file: {error}", "copy or train it again") from None


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Set all of a model's weights.

    Args:
        model: receives the weights.
        tensors: by the model's own names.
        origin: where they come from, for the message.

    Raises:
        ModelFileError: names or shapes differ; the message lists both sides.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        raise ModelFileError(mismatch(expected, found, origin), "load it into a model of the same config and classes")
    model.load_state_dict(dict(tensors))


def mismatch(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], origin: str) -> str:
    """What does not fit, in one line: names on either side only, and other shapes.

    Args:
        expected: the model's shapes by name.
        found: the file's.
        origin: the file.
    """
    shapes = [
        f"{name} {found[name]} for {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    kinds = {
        "in the file only": sorted(found.keys() - expected.keys()),
        "in the model only": sorted(expected.keys() - found.keys()),
        "of another shape": shapes,
    }
    parts = [
        f"{kind} ({len(names)}): {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    ]
    return f"the weights of {origin} do not fit the model; {'; '.join(parts)}"


# timm's names of the parts of a block, and ours.
_TIMM_PARTS = {
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
_TIMM_ENDS = {
    "stem.conv1": "stem.reduce",
    "stem.norm1": "stem.norm",
    "stem.conv2": "stem.mix",
    "head.norm": "head.norm",
    "head.pre_logits.fc": "head.hidden.0",
    "head.fc": "head.classes",
}


def from_timm(tensors: Mapping[str, Tensor], config: CoAtNetConfig) -> dict[str, Tensor]:
    """The state of a timm `MaxxVit` in the paper's form (`coatnet_0_224` and its kin) under our names and shapes.

    Their 1x1 convolutions are our dense layers, their projections are ordered head, query/key/value, channel, their
    tables are `((2H-1)(2W-1), h)`, and their stem has no bias unless the config says so.

    Args:
        tensors: timm's `state_dict()`.
        config: the network it becomes: its stages and head size.

    Raises:
        ModelFileError: a tensor that this form does not have.
    """
    converted = dict(_convert(name, tensor, config) for name, tensor in tensors.items())
    tables = config.grids(config.image_size, config.image_size)[1:]
    for index, (stage, grid) in enumerate(zip(config.stages, tables, strict=True)):
        for block in range(stage.depth):
            name = f"stages.{index}.{block}.attention.relative_bias.table"
            if name in converted:
                converted[name] = converted[name].T.reshape(-1, 2 * grid[0] - 1, 2 * grid[1] - 1)
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def _convert(name: str, tensor: Tensor, config: CoAtNetConfig) -> tuple[str, Tensor]:
    part, _, kind = name.rpartition(".")
    block = re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", part)
    letter = config.stages[int(block[1])].block if block and int(block[1]) < len(config.stages) else None
    names = _TIMM_PARTS[letter] if block and letter else _TIMM_ENDS
    key = block[3] if block else part
    if key not in names:
        raise ModelFileError(f"{name} is not a part of timm's paper-form CoAtNet", "use weights of coatnet_N_224")
    ours = f"stages.{block[1]}.{block[2]}.{names[key]}" if block else names[key]
    if kind == "relative_position_bias_table":
        return f"{ours}.table", tensor
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if ours.endswith("query_key_value"):
        by_head = tensor.reshape(-1, 3, config.head_size, *tensor.shape[1:])
        tensor = by_head.transpose(0, 1).flatten(0, 2)
    return f"{ours}.{kind}", tensor
