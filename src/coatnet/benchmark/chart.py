"""A picture of a benchmark."""

from __future__ import annotations

from pathlib import Path

from coatnet.benchmark.measure import Benchmark, Speed
from coatnet.pages.plots import Series, throughput


def draw(result: Benchmark, path: Path) -> None:
    """Images per second against the batch size, a line for each network and runtime; one PNG file."""
    lines: dict[tuple[str, str], list[Speed]] = {(one.model, one.runtime): [] for one in result.speeds}
    for one in result.speeds:
        lines[one.model, one.runtime].append(one)
    series = [
        Series(
            name=f"{model}, {runtime}",
            x=[one.batch_size for one in speeds],
            y=[one.images_per_second for one in speeds],
        )
        for (model, runtime), speeds in lines.items()
    ]
    height, width = result.image_size
    throughput(path, series, f"{result.model}, {height} x {width} px, {result.device}")
