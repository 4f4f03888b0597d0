"""Checkpoints that survive a crash at any moment: written beside, proved by a manifest, moved into place whole.

Protocol: fill `step-N.tmp`, sync each file, write `manifest.json` with every sha256 last, sync the folder, rename,
sync the parent, and only then remove older ones. A folder counts only if its manifest agrees with its files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from coatnet.errors import ModelFileError, QualityError
from coatnet.model.tensors import save_tensors
from coatnet.ranks import any_rank, is_main
from coatnet.training.disk import room_for
from coatnet.training.sharding import as_shares_of, own_share, whole_on_main

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{9})")
_NUMBERS = {"step", "better", "best", "best_loss", "best_step", "stale", "evaluated", "skipped", "seconds"}
Weights = Literal["averaged", "raw"]
"""Which weights of a run: those of its last step, or their moving average."""


@dataclass
class TrainingState:
    """Everything that a step changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    step: int = 0
    """Steps done."""
    better: Weights = "averaged"
    """The better weights of the last evaluation; the raw ones where there is no average."""
    best: float = 0.0
    """Best validation accuracy so far, a fraction."""
    best_loss: float = math.inf
    """Validation loss of that evaluation."""
    best_step: int = 0
    """Step of that evaluation."""
    stale: int = 0
    """Evaluations since that one."""
    evaluated: int = -1
    """Step of the last evaluation; -1 before the first."""
    skipped: int = 0
    """Steps in a row, up to this one, that updated nothing."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """The better ones of that evaluation, on the CPU; kept only if the classifier is that of the best."""
    seconds: float = 0.0
    """Spent in this run so far, all its parts together."""
    losses: list[Tensor] = field(default_factory=list)
    """Of the steps since the last line in the log, scalars still on their device."""


def save_checkpoint(state: TrainingState, folder: Path, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest `keep`. Every process must call it; the main one writes.

    Args:
        state: what to save.
        folder: the run's folder of checkpoints.
        keep: how many stay.

    Raises:
        QualityError: a weight, an average or a moment is not finite; nothing is written.
        ResourceError: the disk is full; older checkpoints are untouched.
    """
    target = folder / f"step-{state.step:09d}"
    content = _content(state)
    if not is_main() or _is_whole(target):
        return target
    fresh = folder / f"{target.name}.tmp"
    with room_for(f"the checkpoint {target}", folder.parent):
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            fresh.mkdir(parents=True)
            _write(content, fresh)
            fresh.rename(target)
            _sync(folder)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    # A newer one is damaged, else the run had gone on from it: it must not count as one of those that stay.
    for old in [path for path in _newest_first(folder) if path <= target][keep:]:
        shutil.rmtree(old)
    return target


def load_newest(state: TrainingState, folder: Path) -> list[str]:
    """Set `state` from the newest whole checkpoint, if there is any.

    Returns:
        One line for each damaged checkpoint that was passed over.

    Raises:
        ModelFileError: there are checkpoints, and all are damaged; or the newest whole one is of another network.
    """
    damaged: list[str] = []
    for candidate in _newest_first(folder):
        if _is_whole(candidate):
            try:
                _read(state, candidate)
            except (RuntimeError, KeyError, ValueError, IndexError, TypeError) as error:
                first = str(error).strip().splitlines()[0]
                raise ModelFileError(
                    f"{candidate} is whole and does not fit the run: {first}",
                    "config.json of the run may have been changed: restore it",
                ) from None
            return damaged
        damaged.append(f"{candidate} is damaged and was passed over")
    if damaged:
        raise ModelFileError(f"every checkpoint in {folder} is damaged", "start the run again with --overwrite")
    return []


def room_in_newest(folder: Path) -> int | None:
    """How many parameters the newest checkpoint's file of weights has room for; None where there is no checkpoint."""
    files = (candidate / "model.safetensors" for candidate in _newest_first(folder))
    return next((path.stat().st_size // 4 for path in files if path.is_file()), None)  # float32


def _newest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return iter(sorted(found, reverse=True))


class _Content(NamedTuple):
    """What a checkpoint holds: tensors by file, and state.json."""

    files: dict[str, dict[str, Tensor]]
    numbers: dict[str, Any]


def _content(state: TrainingState) -> _Content:
    """On the main process; on the others, which give their shares of it, no tensors."""
    moments, scalars = _flatten(state.optimizer)
    files = {"model.safetensors": dict(state.model.state_dict()), "optimizer.safetensors": moments}
    if state.ema:
        files["ema.safetensors"] = dict(state.ema.module.state_dict())
    if state.best_weights:
        files["best.safetensors"] = state.best_weights
    broken = [
        f"{name} of {path}"
        for path, tensors in files.items()
        for name, tensor in tensors.items()
        if not torch.isfinite(own_share(tensor)).all()
    ]
    if any_rank(bool(broken))[0]:
        raise QualityError(
            f"training diverged: after step {state.step} {broken[0] if broken else 'a weight'} is not finite",
            "lower --learning-rate and start again",
        )
    numbers: dict[str, Any] = {name: getattr(state, name) for name in sorted(_NUMBERS)}
    numbers |= {"losses": [float(loss) for loss in state.losses], "optimizer": scalars}
    return _Content({name: whole_on_main(tensors) for name, tensors in files.items()}, numbers)


def _write(content: _Content, folder: Path) -> None:
    for name, tensors in content.files.items():
        save_tensors(tensors, folder / name)
    (folder / "state.json").write_text(json.dumps(content.numbers))
    digests = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        digests[path.name] = _sha256(path)
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1))
    _sync(folder / MANIFEST)
    _sync(folder)


def _read(state: TrainingState, folder: Path) -> None:
    _fill(state.model, folder / "model.safetensors")
    if state.ema:
        _fill(state.ema.module, folder / "ema.safetensors")
    numbers = json.loads((folder / "state.json").read_text())
    _unflatten(state.optimizer, load_file(folder / "optimizer.safetensors"), numbers["optimizer"])
    best = folder / "best.safetensors"
    state.best_weights = load_file(best) if best.exists() else {}
    for name in _NUMBERS & numbers.keys():  # one that an older coatnet did not write is as it was at the start
        setattr(state, name, numbers[name])
    device = next(state.model.parameters()).device
    state.losses = [torch.tensor(loss, device=device) for loss in numbers["losses"]]


def _fill(model: nn.Module, path: Path) -> None:
    own = model.state_dict()
    model.load_state_dict({name: as_shares_of(tensor, own[name]) for name, tensor in load_file(path).items()})


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors by "number.name", and what else it holds."""
    whole = optimizer.state_dict()
    tensors = {f"{number}.{name}": value for number, values in whole["state"].items() for name, value in values.items()}
    return tensors, {"param_groups": whole["param_groups"]}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            # A fused optimizer walks through memory: a moment must be laid out like its parameter.
            tensor = torch.empty_like(parameter).copy_(as_shares_of(tensor, parameter))
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, **scalars})


def _is_whole(folder: Path) -> bool:
    """Whether the manifest is there and agrees with every file."""
    try:
        digests = json.loads((folder / MANIFEST).read_text())
        return bool(digests) and all(_sha256(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
