"""What threads and forked processes share of torch: one tracer, and threads that a fork loses. Imports no torch."""

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
"""The process in which torch first used threads, or an accelerator, by the kind of the device."""


def check_fork(device: torch.device) -> None:
    """See that torch can compute in this process.

    A process forked from one in which torch has computed waits forever for threads that it does not have (GNU OpenMP),
    or has no accelerator. With one thread torch computes in it too; so do ONNX Runtime and OpenVINO, with any number.

    Raises:
        ConfigError: it cannot.
    """
    import torch

    if device.type == "cpu" and torch.get_num_threads() == 1:
        return
    if _FIRST.setdefault(device.type, os.getpid()) != os.getpid():
        one = ", or torch.set_num_threads(1) in this one" if device.type == "cpu" else ""
        raise ConfigError(
            "this process was forked from one in which torch had computed already, and torch would hang in it",
            f"start processes by spawn and load the classifier in each{one}",
        )
