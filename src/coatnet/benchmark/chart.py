"""A picture of a benchmark."""

from __future__ import annotations

from pathlib import Path

from coatnet.benchmark.measure import Benchmark, Speed
from coatnet.pages.plots import Series, throughput


def draw(result: Benchmark, path: Path) -> None:
    """Images per second against the batch size, a line for each network and runtime; one PNG file."""
    lines: dict[str, dict[str, list[Speed]]] = {}
    for one in result.speeds:
        lines.setdefault(one.model, {}).setdefault(one.runtime, []).append(one)
    networks = {
        model: [
            Series(name=runtime, x=[one.batch_size for one in speeds], y=[one.images_per_second for one in speeds])
            for runtime, speeds in runtimes.items()
        ]
        for model, runtimes in lines.items()
    }
    height, width = result.image_size
    title = f"{result.model}, {height} x {width} px, {result.device}, {result.threads} threads"
    throughput(path, networks, title)
