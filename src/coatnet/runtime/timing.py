"""How long things take, how much memory they need, and what this machine could do at best: the one place that measures.

Importing this file imports no torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Name = TypeVar("Name", bound=Hashable)
WARM_UP = 2
"""Calls that are not counted: the first ones choose kernels and fetch memory (measured: after two, times stay)."""
MATRIX_SIDE = 2048
"""Side of the ceiling's square matrices: 17 GFLOP, long against the start of a product, short against patience."""
COPY_BYTES = 256 * 2**20
"""What the ceiling's copy moves: beyond the caches of common processors."""


@dataclass(frozen=True)
class Timing:
    """What the calls of one action took."""

    seconds: tuple[float, ...]
    """Of each counted call, in order; at least one."""

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        """Seconds that 95 % of the calls did not exceed, interpolated between calls."""
        return float(np.percentile(self.seconds, 95))

    def ratio_to(self, other: Timing) -> float:
        """How many times as long as `other` these calls took: the median over calls that were neighbours in time, so
        that what slows the machine for a while slows both."""
        return float(np.median(np.divide(self.seconds, other.seconds)))


def time_in_turn(
    actions: Mapping[Name, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = WARM_UP,
    settle: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Timing]:
    """Call actions one after the other, round after round.

    Args:
        actions: by name; each returns when its work is done, which on a GPU means after a synchronization.
        rounds: counted calls of each.
        warm_up: rounds before, not counted.
        settle: make one uncounted call before each counted one. For runtimes whose threads keep a core busy for a while
            after a call, as torch's and ONNX Runtime's do: the next one would be slowed by its neighbour.
        clock: seconds.

    Returns:
        The timing of each, with as many calls as rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    seconds: dict[Name, list[float]] = {name: [] for name in actions}
    for number in range(warm_up + rounds):
        for name, action in actions.items():
            if settle:
                action()
            started = clock()
            action()
            taken = clock() - started
            if number >= warm_up:
                seconds[name].append(taken)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


@dataclass
class PeakMemory:
    """Memory in a span of time; known when the span is over."""

    before: int = 0
    """Bytes held when it began."""
    peak: int = 0
    """The most bytes held in it."""

    @property
    def growth(self) -> int:
        """Bytes that the span took beyond what was held before."""
        return max(0, self.peak - self.before)


@contextmanager
def watch_memory(device: torch.device | None = None) -> Iterator[PeakMemory]:
    """Find out how much memory is held at most inside the `with`.

    Args:
        device: a GPU's memory as torch takes it; that of the whole process for a CPU or None. Where the system cannot
            forget an earlier peak, as all but Linux, that one may be found.
    """
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or not allowed in this container
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is held now
    memory = PeakMemory(before=peak_memory(device))
    yield memory
    memory.peak = peak_memory(device)


def peak_memory(device: torch.device | None = None) -> int:
    """The most bytes that this process has held so far: on a GPU what torch took of it, else of the computer."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():  # resource.getrusage on Linux also counts the program that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class Ceilings:
    """What one device does at best, measured with torch's own kernels."""

    float32: float
    """Matrix product, floating-point operations per second; a multiply-add counts as two."""
    bfloat16: float
    """The same in bfloat16."""
    copy: float
    """Bytes per second that a large copy reads and writes together."""

    def as_dict(self) -> dict[str, float]:
        """FLOP/s, FLOP/s and bytes/s, ready for JSON."""
        return {"float32_flops": self.float32, "bfloat16_flops": self.bfloat16, "copy_bytes": self.copy}


def measure_ceilings(device: torch.device, rounds: int = 5) -> Ceilings:
    """Measure what a device does at best."""
    import torch

    single = torch.ones(MATRIX_SIDE, MATRIX_SIDE, device=device)
    half = single.bfloat16()
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def timed(action: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            action()
            synchronize(device)

        return run

    timings = time_in_turn(
        {
            "float32": timed(lambda: torch.mm(single, single)),
            "bfloat16": timed(lambda: torch.mm(half, half)),
            "copy": timed(lambda: target.copy_(source)),
        },
        rounds,
    )
    operations = 2 * MATRIX_SIDE**3
    return Ceilings(
        operations / timings["float32"].median,
        operations / timings["bfloat16"].median,
        2 * COPY_BYTES / timings["copy"].median,
    )


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was asked to."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
