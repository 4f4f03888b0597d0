"""Which runtime is the fastest one that this machine has. Imports no torch where no accelerator can be seen."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import Literal

from coatnet.runtime.engines import Runtime, find_device

Chosen = Literal["torch", "compiled", "onnx", "openvino"]


def choose_runtime(runtime: Runtime, device: str = "auto") -> Chosen:
    """What `auto` means on this machine; a runtime that is named stays.

    On a GPU torch; on a CPU OpenVINO if it is installed, else ONNX Runtime with what converts to it, else torch.
    Measured in benchmarks/inference_speed.md. ONNX Runtime in float32 comes before torch in bfloat16: of coatnet_0 and
    a small member, at batch 1 and 8, it is slower in one case of four, and it starts without torch. torch's compiler is
    never chosen: it takes minutes at every start.
    """
    if runtime != "auto":
        return runtime
    if device not in ("auto", "cpu") or (device == "auto" and _has_accelerator()):
        return "torch"
    if _installed("openvino"):
        return "openvino"
    return "onnx" if _installed("onnx", "onnxscript", "onnxruntime") else "torch"


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


def _has_accelerator() -> bool:
    """Whether torch would take another device than the CPU; it is asked only where there may be one."""
    seen = (
        any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
        or (sys.platform == "darwin" and platform.machine() == "arm64")
        or shutil.which("nvidia-smi") is not None
    )
    return seen and find_device("auto").type != "cpu"
