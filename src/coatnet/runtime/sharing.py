"""What threads and forked processes share: torch's one tracer, and threads of runtimes that a fork loses. Imports no
torch."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from coatnet.errors import ConfigError

if TYPE_CHECKING:
    import torch

TRACING = threading.RLock()
"""Held while torch exports, compiles or rebuilds a graph: it keeps what it is at in variables of the whole process."""
_FIRST: dict[str, int] = {}
"""The process that first started threads of a runtime, or used an accelerator, by the name of either."""


def is_forked(name: str) -> bool:
    """Whether this process was forked from one that started threads of this runtime or used this accelerator. If nobody
    has done so yet, this process is the first.
    """
    return _FIRST.setdefault(name, os.getpid()) != os.getpid()


def check_fork(device: torch.device) -> None:
    """See that torch can compute in this process.

    A process forked from one in which torch has computed waits forever for threads that it does not have (GNU OpenMP),
    or has no accelerator. With one thread torch computes in it too.

    Raises:
        ConfigError: it cannot.
    """
    import torch

    if device.type == "cpu" and torch.get_num_threads() == 1:
        return
    if is_forked(device.type):
        raise forked_error("torch", ", or torch.set_num_threads(1) in this one" if device.type == "cpu" else "")


def forked_error(runtime: str, choice: str = "") -> ConfigError:
    """The error of a runtime that would hang; `choice` is what else to do."""
    return ConfigError(
        f"this process was forked from one in which {runtime} had computed already, and {runtime} would hang in it",
        f"start processes by spawn and load the classifier in each{choice}",
    )
