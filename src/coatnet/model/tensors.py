"""The one gate for weights in files, ours and other people's: safetensors, or torch's pickles without any code in them.

A model file may come from anywhere. Nothing in it is ever executed, nothing is unpacked to disk, and no header makes
us reserve more memory than the file has bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coatnet.errors import ModelFileError
from coatnet.quiet import ignore_warnings

PICKLED = (".pth", ".pt", ".bin", ".tar", ".ckpt")
"""Endings of files that `torch.save` wrote, `.pth.tar` among them."""
SUFFIXES = (".safetensors", *PICKLED)
"""Endings of files that weights are read from."""
WRAPPERS = ("state_dict_ema", "state_dict", "model")
"""Keys below which training programs (timm's, torchvision's) store the weights, the average first, as it is the better
network."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
MAX_HEADER_BYTES = 16_000_000
"""A tensor takes about 100 bytes in a safetensors header; coatnet_7 has 1,500 of them."""

_SAFE_GLOBALS = threading.Lock()
"""Held while torch's list of what may be unpickled, one for the whole process, is longer."""
_NOT_OURS = "take the file from its source again, or give one in safetensors form"


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: it cannot be written, for want of space for example.
    """
    try:
        # Contiguous, because safetensors keeps no strides.
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # safetensors tells the system's error in words only
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Args:
        path: `.safetensors`; or `.pth`, `.pt`, `.bin`, `.tar` or `.ckpt` with a state dict, bare or below one of
            `WRAPPERS`. One of `PREFIXES` before every name is taken off.

    Raises:
        ModelFileError: the file is missing, damaged, or holds anything but tensors by name; objects that would have to
            be executed are refused.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist", "give the folder that a training run wrote, or a weights file")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelFileError(f"{path} is no weights file by its name", f"weights end in {', '.join(SUFFIXES)}")
    tensors = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickled(path)
    empty = next((name for name, tensor in tensors.items() if not tensor.numel()), None)
    if empty is not None or not tensors:
        raise ModelFileError(f"{path} is refused: {empty or 'it'} is empty", _NOT_OURS)
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        _check_header(path)
        return load_file(path)
    except Exception as error:  # whatever a parser may say of bytes made to confuse it
        raise ModelFileError(f"{path} is not a whole safetensors file: {_reason(error)}", _NOT_OURS) from None


def _check_header(path: Path) -> None:
    """Refuse what the library lets pass: a name given twice, of which it would take the last, and a huge header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, path.stat().st_size):
            raise ValueError(f"its header claims {length} bytes")
        json.loads(file.read(length), object_pairs_hook=_without_repetition)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return dict(pairs)


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        _check_archive(path)
        # timm's training checkpoints hold their command line beside the weights: a Namespace, which executes nothing.
        # What is wrong is said below, in one line.
        with _SAFE_GLOBALS, torch.serialization.safe_globals([argparse.Namespace]), ignore_warnings():
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a parser may say of bytes made to confuse it
        raise ModelFileError(f"{path} is refused: {_reason(error)}", _NOT_OURS) from None
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    problem = _problem(found)
    if problem:
        raise ModelFileError(f"{path} is refused: {problem}", "give a file with a state dict: tensors by name")
    return dict(found)


def _check_archive(path: Path) -> None:
    """Refuse a zip that grows (torch stores its records as they are, a packed one is a bomb) or that points outside."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    outside = [entry.filename for entry in entries if ".." in entry.filename or entry.filename.startswith(("/", "\\"))]
    if outside:
        raise ValueError(f"it has a record of the name {outside[0]!r}")
    if size > path.stat().st_size:
        raise ValueError(f"its records would unpack to {size} bytes, it has {path.stat().st_size}")


def _problem(found: object) -> str:
    """Why this is not a state dict, or nothing."""
    if not isinstance(found, dict):
        return f"it holds a {type(found).__name__}, not tensors by name"
    for name, value in found.items():
        if not isinstance(name, str):
            return f"the key {name!r} is not a name"
        kind = _oddity(value)
        if kind:
            return f"{name} is not a plain tensor but {kind}"
        if math.prod(value.shape) * value.element_size() > value.untyped_storage().nbytes():
            return f"{name} claims the shape {tuple(value.shape)}, more than its bytes"
    return ""


def _oddity(value: object) -> str:
    """What a value is that is no plain tensor; the order matters, for a nested one has no shape to ask for."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested:
        return "a nested one"
    if value.layout != torch.strided:
        return f"one of layout {value.layout}"
    kinds = {"quantized": value.is_quantized, "meta": value.is_meta, "complex": value.is_complex()}
    return next((f"a {kind} one" for kind, found in kinds.items() if found), "")


def _reason(error: Exception) -> str:
    """The first line of what a library says, short."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__
