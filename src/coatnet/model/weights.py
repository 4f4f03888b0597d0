"""Weights of a model: save, load, and a report of every mismatch with the argument that would accept it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from coatnet.errors import ModelFileError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.tensors import read_tensors, save_tensors

SHOWN = 5
"""Names listed of each kind of mismatch before the rest is only counted."""

Shapes = dict[str, tuple[int, ...]]


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the parameters and running statistics of `model` to a safetensors file."""
    save_tensors(model.state_dict(), path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into `model`; nothing is ever loaded partly.

    Raises:
        ModelFileError: the file is missing or refused, or holds other tensors than the model.
    """
    fill(model, read_tensors(path), str(path))


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Set all of a model's weights.

    Args:
        model: receives the weights.
        tensors: by the model's own names; floats of any precision.
        origin: where they come from, for the message.

    Raises:
        ModelFileError: names, shapes or kinds of number differ, and the message lists both sides; or a number is not
            finite.
    """
    state = model.state_dict()
    expected: Shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        raise ModelFileError(mismatch(expected, found, origin), _remedy(expected, found))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ModelFileError(f"{name} of {origin} is {tensor.dtype}, expected {state[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise ModelFileError(f"{name} of {origin} holds numbers that are not finite", "take an earlier file")
    model.load_state_dict(dict(tensors))


def fitting_config(tensors: Mapping[str, Tensor], config: CoAtNetConfig) -> CoAtNetConfig:
    """The config of a member with the classes and the image size that a file of its weights was trained at.

    Args:
        tensors: by our own names.
        config: the member.
    """
    changes: dict[str, object] = {}
    if "head.classes.weight" in tensors:
        changes["num_classes"] = tensors["head.classes.weight"].shape[0]
    first = next((index for index, stage in enumerate(config.stages) if stage.block == "T"), None)
    table = tensors.get(f"stages.{first}.0.attention.relative_bias.table")
    # Only a square one: otherwise a small file could ask for a large network.
    if first is not None and table is not None and table.ndim == 3 and table.shape[1] == table.shape[2]:
        changes["image_size"] = config.image_size_of(first, (table.shape[1] + 1) // 2)
    return config.replace(**changes)


def mismatch(expected: Shapes, found: Shapes, origin: str) -> str:
    """What does not fit, in one line: names on either side only, and other shapes.

    Args:
        expected: the model's shapes by name.
        found: the file's.
        origin: the file.
    """
    kinds = {
        "in the file only": sorted(found.keys() - expected.keys()),
        "in the model only": sorted(expected.keys() - found.keys()),
        "of another shape": [f"{name} {found[name]} for {expected[name]}" for name in _reshaped(expected, found)],
    }
    parts = [
        f"{kind} ({len(names)}): {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    ]
    return f"the weights of {origin} do not fit the model; {'; '.join(parts)}"


def _remedy(expected: Shapes, found: Shapes) -> str:
    """The argument that would accept the file, where one does."""
    surplus, missing = found.keys() - expected.keys(), expected.keys() - found.keys()
    reshaped = _reshaped(expected, found)
    one_sided = surplus | missing
    if reshaped and not one_sided and all(name.startswith("head.classes.") for name in reshaped):
        return f"num_classes={found['head.classes.bias'][0]} accepts it"
    if reshaped and not one_sided and all(name.endswith("relative_bias.table") for name in reshaped):
        return "the image_size that the file was trained at accepts it: its tables are of another grid"
    if one_sided and not reshaped and one_sided <= {"stem.reduce.bias", "stem.mix.bias", "stem.embed.bias"}:
        return f"stem_bias={bool(surplus)} accepts it"
    return "load it into a model of the same config and classes; on the command line --model names the member"


def _reshaped(expected: Shapes, found: Shapes) -> list[str]:
    return sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
