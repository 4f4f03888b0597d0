"""`coatnet benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from coatnet.benchmark.runtimes import choose_runtimes
from coatnet.cli.flags import parse_size
from coatnet.cli.model_tables import show_benchmark
from coatnet.cli.printing import show_json, show_path
from coatnet.errors import ConfigError


def benchmark(  # noqa: PLR0913 (flags)
    network: str,
    /,
    *,
    batch_sizes: Annotated[str, Parameter(metavar="N,N,...")] = "1,8",
    runtimes: Annotated[str | None, Parameter(metavar="NAME,NAME,...")] = None,
    rounds: Annotated[int, Parameter(validator=Number(gte=1))] = 20,
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    chart: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    device: str = "auto",
) -> None:
    """Measure how fast a network runs on this machine: images per second, latency, memory and where the time goes,
    beside what the machine could do at best and timm's network of the same name, all in turn.

    Args:
        network: a member of the family, timm/NAME, a layout as CCTT of the size of coatnet_0, a run folder or a
            classifier folder.
        batch_sizes: images at once.
        runtimes: of torch-float32, torch-bfloat16, compiled-float32, compiled-bfloat16, onnx-float32, openvino-float32
            and openvino-bfloat16; default: torch's, and what predict would take here.
        rounds: batches that are timed, of each runtime and batch size.
        image_size: feed images at another size: 96, or 96x128 for height x width in pixels.
        chart: PNG file to write: images per second against the batch size.
        json: print one object instead of tables; seconds, bytes, and shares as fractions.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    sizes, names = _batch_sizes(batch_sizes), choose_runtimes(runtimes.split(",") if runtimes else (), device)
    if chart is not None and chart.suffix != ".png":
        raise ConfigError(f"--chart {chart} is no picture", "give a name that ends with .png")
    asked = None if image_size is None else parse_size(image_size)
    from coatnet.benchmark.measure import benchmark as measure
    from coatnet.study.named_network import open_network

    model, own = open_network(network)
    size = own if asked is None else asked
    called = Path(network).name if Path(network).exists() else network
    result = measure(called, model, batch_sizes=sizes, runtimes=names, rounds=rounds, image_size=size, device=device)
    if chart is not None:
        from coatnet.benchmark.chart import draw

        draw(result, chart)
    show_json(result.as_dict()) if json else show_benchmark(result)
    if chart is not None and not json:
        show_path("chart", chart)


def _batch_sizes(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(f"--batch-sizes: {text!r:.60} is no list of numbers from 1 up", "write it as 1,8,32")
    return tuple(dict.fromkeys(int(word) for word in words))
