"""What a network can run on: runtimes by name, and the engine of each.

Importing this file imports no torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from coatnet.errors import ConfigError, MissingPartError
from coatnet.runtime.engines import Engine, Precision, TorchEngine, find_device

if TYPE_CHECKING:
    from torch import nn

RUNTIMES: dict[str, Precision] = {
    "torch-float32": "float32",
    "torch-bfloat16": "bfloat16",
    "compiled-float32": "float32",
    "compiled-bfloat16": "bfloat16",
}
"""Each runtime with the precision that it computes in."""
TORCH: tuple[str, ...] = ("torch-float32", "torch-bfloat16")
"""Those that need nothing but torch."""


def choose_runtimes(asked: Sequence[str]) -> tuple[str, ...]:
    """The runtimes that were asked for, each once; those that are everywhere if none was.

    Raises:
        ConfigError: an unknown name.
    """
    for name in asked:
        if name not in RUNTIMES:
            raise ConfigError(f"there is no runtime {name!r}", f"choose from {', '.join(RUNTIMES)}")
    return tuple(dict.fromkeys(asked)) or TORCH


def create_engine(runtime: str, model: nn.Module, device: str) -> Engine:
    """The engine of a runtime.

    Raises:
        MissingPartError: the device, or what the runtime needs, is not in this machine.
    """
    if runtime.startswith("compiled"):
        _check_compiler(device)
        import torch

        return TorchEngine(cast("nn.Module", torch.compile(model)), device, RUNTIMES[runtime])
    return TorchEngine(model, device, RUNTIMES[runtime])


def _check_compiler(device: str) -> None:
    """torch compiles for a CPU with the system's C++ compiler: CXX, else its usual name."""
    if find_device(device).type != "cpu":
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise MissingPartError(
            f"torch compiles with a C++ compiler, and there is no {compiler}", "install it, or choose other --runtimes"
        )
