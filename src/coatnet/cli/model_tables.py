"""Networks in tables: which there are, what they are, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from coatnet.cli.printing import new_table, percent, print_lines, print_sentences
from coatnet.data.samples import printable

if TYPE_CHECKING:
    from coatnet.benchmark.measure import Benchmark, Speed
    from coatnet.classifier.doctor import Examination


def show_models(rows: Sequence[dict[str, Any]]) -> None:
    """The family, the paper's members and ours apart."""
    titles = {"paper": "The paper's members", "coatnet": "Ours, for small images and small machines"}
    for origin, title in titles.items():
        table = new_table(title, "name", "layout")
        for heading in ("parameters", "multiply-adds", "image size"):
            table.add_column(heading, justify="right")
        for row in rows:
            if row["origin"] == origin:
                sizes = f"{row['parameters'] / 1e6:,.2f} M", f"{row['multiply_adds'] / 1e9:,.3f} G"
                table.add_row(row["name"], row["layout"], *sizes, f"{row['image_size']} px")
        print_lines(table, "")
    print_sentences("Parameters with 1000 classes; multiply-adds for one image of that size. M is 10^6, G is 10^9.")


def show_published(rows: Sequence[dict[str, Any]]) -> None:
    """Published weights, with what they reach and how images are prepared for them."""
    table = new_table("Published CoAtNets", "name")
    for heading in ("parameters", "multiply-adds", "top-1", "image size"):
        table.add_column(heading, justify="right")
    for heading in ("crop", "mean", "std"):
        table.add_column(heading)
    for row in rows:
        sizes = f"{row['parameters'] / 1e6:,.2f} M", f"{row['multiply_adds'] / 1e9:,.2f} G"
        reached = "-" if row["top1"] is None else f"{100 * row['top1']:.2f} %"
        crop = f"{row['crop_mode']} {row['crop_fraction']:g}"
        mean, std = (" ".join(f"{channel:g}" for channel in row[name]) for name in ("mean", "std"))
        table.add_row(row["name"].removeprefix("timm/"), *sizes, reached, f"{row['image_size']} px", crop, mean, std)
    print_lines(table, "")
    print_sentences(
        "Top-1: on ImageNet-1K as timm reports it; - for ImageNet-12K's classes. The resizing filter is bicubic."
    )
    print_lines("Use one as timm/NAME: coatnet predict timm/coatnet_0_rw_224.sw_in1k photo.jpg")


def show_properties(rows: Sequence[dict[str, Any]]) -> None:
    """What was measured of networks, a line for each."""
    table = new_table("Properties", "network")
    for heading in ("error, stride", "error, pixels", "adaptivity", "field", "reached"):
        table.add_column(heading, justify="right")
    for row in rows:
        errors = f"{row['error_at_stride']:.2g} ({row['stride']} px)", f"{row['error_at_pixels']:.3f}"
        shares = percent(row["receptive_field"]), percent(row["reached"])
        table.add_row(Text(row["name"]), *errors, f"{row['input_adaptivity']:.3f}", *shares)
    print_lines(table, "")
    print_sentences(
        "Error: how far features are from the shifted ones, shifted by the stride and by single pixels, relative to how"
    )
    print_sentences(
        "much they differ from place to place. Adaptivity to the input: 0 for fixed weights. Field: share of the image"
    )
    print_sentences("that holds 90 % of the gradient of the centre; reached: share of the image that has any.")


def show_examination(examination: Examination) -> None:
    """What a checkpoint is, and a line for each thing that was looked at."""
    print_lines(Text(examination.kind, "bold"))
    for name, value in examination.facts.items():
        print_lines(Text.assemble((f"  {name}: ", "bold"), printable(value)))
    styles = {"fine": "green", "note": "yellow", "wrong": "bold red"}
    for finding in examination.findings:
        hint = f" ({printable(finding.hint)})" if finding.hint else ""
        print_sentences(Text.assemble((f"{finding.level:6}", styles[finding.level]), printable(finding.text), hint))


def show_benchmark(result: Benchmark) -> None:
    """Speed in each cell, where the time goes, and what the machine could do."""
    height, width = result.image_size
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    title = f"{result.model}: {height} x {width} px, {result.multiply_adds / 1e9:,.3f} G multiply-adds"
    table = new_table(f"{title}; {result.device}, {threads}")
    # A runtime that is folded cannot be read, and a peer's columns say nothing where there is none.
    for heading in ("network", "runtime") if result.peer else ("runtime",):
        table.add_column(heading, no_wrap=heading == "runtime")
    numbers = ("batch", "images/s", "median", "p95", "of ceiling", *(("times peer",) if result.peer else ()), "memory")
    for heading in numbers:
        table.add_column(heading, justify="right")
    largest = max(one.batch_size for one in result.speeds)
    for one in result.speeds:
        table.add_row(*_speed_cells(result, one, one.batch_size == largest))
    print_lines(table)
    if result.stages:
        stages = new_table(f"where {result.stage_runtime} spends a batch of {largest}", "part")
        for heading in ("time", "share", "GFLOP/s"):
            stages.add_column(heading, justify="right")
        whole = sum(stage.seconds for stage in result.stages)
        for stage in result.stages:
            cells = (f"{1000 * stage.seconds:,.1f} ms", percent(stage.seconds / whole), f"{stage.flops / 1e9:,.0f}")
            stages.add_row(stage.name, *cells)
        print_lines("", stages)
    top = result.ceilings
    products = f"{top.float32 / 1e9:,.0f} GFLOP/s in float32, {top.bfloat16 / 1e9:,.0f} in bfloat16"
    print_lines("", f"ceilings: matrix product {products}; copy {top.copy / 1e9:,.1f} GB/s")
    if result.peer:
        print_sentences(
            f"times peer: against the fastest runtime of {result.peer} at the same batch size, calls in turn"
        )


def _speed_cells(result: Benchmark, one: Speed, largest: bool) -> list[str]:
    times = result.times_peer(one)
    memory = f"{result.memory[one.runtime] / 1e9:.2f} GB" if largest and one.model == result.model else ""
    return [
        *([printable(one.model)] if result.peer else []),
        one.runtime,
        str(one.batch_size),
        f"{one.images_per_second:,.1f}",
        f"{1000 * one.timing.median:,.1f} ms",
        f"{1000 * one.timing.p95:,.1f} ms",
        percent(one.share_of_ceiling),
        *(["" if times is None else f"{times:.2f}"] if result.peer else []),
        memory,
    ]
