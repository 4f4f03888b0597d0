"""What this machine computes well in, found out and not assumed."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from coatnet.runtime.engines import Precision, multiplies_bfloat16
from coatnet.version import __version__


def choose_precision(asked: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The precision of forward and backward: bfloat16 where the device multiplies in it natively."""
    if asked != "auto":
        return asked
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def keep_freed_memory() -> None:
    """Ask glibc to keep the memory of freed tensors instead of giving it back to the kernel and fetching it again.

    A training step frees and takes the same large tensors every time; without this a quarter of a step on a CPU goes
    into page faults (measured: coatnet_0 at 224 px, 16 images in bfloat16: 260,000 faults and 1.92 s a step without,
    none and 1.36 s with it). Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    # No large tensor is mapped on its own: the threshold for that ends at 32 MiB, and a map of 16 images has more.
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)  # the largest there is: the parameter is unsigned where it is kept


def fix_order_of_sums() -> None:
    """Have torch take kernels that add in the same order each time, for the rest of this process.

    cuBLAS does so only with a workspace of fixed size, which it is told before its first product.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS 13 documentation, "Results Reproducibility"
    torch.use_deterministic_algorithms(True)


def describe(device: torch.device, command: str) -> dict[str, Any]:
    """Versions, device, threads, commit and command: what environment.json holds."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "coatnet": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")},
        "platform": platform.platform(),
        "device": f"{device} ({name})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "command": command,
    }


def _git_commit() -> str | None:
    """Commit of the working tree that coatnet is run from, if it is one."""
    here = Path(__file__).parent
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
