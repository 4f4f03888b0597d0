"""What the verbs print: tables and lines for people, JSON for machines."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coatnet.data.samples import printable

if TYPE_CHECKING:
    from coatnet.benchmark.measure import Benchmark
    from coatnet.classifier.doctor import Examination
    from coatnet.cli.answers import Answer
    from coatnet.data.packing import Packed
    from coatnet.data.scan import Scan, Unreadable
    from coatnet.evaluation.metrics import Evaluation
    from coatnet.export.export import Exported
    from coatnet.training.compare import Comparison
    from coatnet.training.config import TrainConfig
    from coatnet.training.forecast import Forecast
    from coatnet.training.loop import Run
    from coatnet.training.tune import Tuning

MOST_CLASSES, WORST_CLASSES = 50, 20
"""Up to 50 classes are all listed, a screenful or two; of more, the worst 20."""
MOST_NAMES = 20
"""Unreadable images that are named; JSON names them all."""


def show_json(value: Any) -> None:
    """One JSON value in one line."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def show_models(rows: Sequence[dict[str, Any]]) -> None:
    """The family, the paper's members and ours apart."""
    titles = {"paper": "The paper's members", "coatnet": "Ours, for small images and small machines"}
    for origin, title in titles.items():
        table = _table(title, "name", "layout")
        for heading in ("parameters", "multiply-adds", "image size"):
            table.add_column(heading, justify="right")
        for row in rows:
            if row["origin"] == origin:
                sizes = f"{row['parameters'] / 1e6:,.2f} M", f"{row['multiply_adds'] / 1e9:,.3f} G"
                table.add_row(row["name"], row["layout"], *sizes, f"{row['image_size']} px")
        _print(table, "")
    _print("Parameters with 1000 classes; multiply-adds for one image of that size. M is 10^6, G is 10^9.")


def show_properties(rows: Sequence[dict[str, Any]]) -> None:
    """What was measured of networks, a line for each."""
    table = _table("Properties", "network")
    for heading in ("error, stride", "error, pixels", "adaptivity", "field", "reached"):
        table.add_column(heading, justify="right")
    for row in rows:
        errors = f"{row['error_at_stride']:.2g} ({row['stride']} px)", f"{row['error_at_pixels']:.3f}"
        shares = _percent(row["receptive_field"]), _percent(row["reached"])
        table.add_row(Text(row["name"]), *errors, f"{row['input_adaptivity']:.3f}", *shares)
    _print(table, "")
    _print(
        "Error: how far features are from the shifted ones, shifted by the stride and by single pixels, relative to how"
    )
    _print(
        "much they differ from place to place. Adaptivity to the input: 0 for fixed weights. Field: share of the image"
    )
    _print("that holds 90 % of the gradient of the centre; reached: share of the image that has any.")


def show_published(rows: Sequence[dict[str, Any]]) -> None:
    """Published weights, with what they reach and how images are prepared for them."""
    table = _table("Published CoAtNets", "name")
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
    _print(table, "")
    _print("Top-1: on ImageNet-1K as timm reports it; - for ImageNet-12K's classes. The resizing filter is bicubic.")
    _print("Use one as timm/NAME: coatnet predict timm/coatnet_0_rw_224.sw_in1k photo.jpg")


def show_choices(config: TrainConfig, folder: Path) -> None:
    """What a recipe chose, before training starts."""
    for choice in config.choices:
        name, _, reason = choice.partition(": ")
        _print(Text.assemble((f"{name}: ", "bold") if reason else name, reason))
    _print(Text.assemble(("folder: ", "bold"), printable(str(folder))))


def show_forecast(expected: Forecast) -> None:
    """What a run would take."""
    run, pace = expected.config.run, expected.pace
    assert run.steps
    epochs = run.steps * run.batch_size / expected.num_images
    parts = f" in {run.accumulate} micro-batches" if run.accumulate != 1 else ""
    for name, told in {
        "steps": f"{run.steps:,} of {run.batch_size} images{parts}, {epochs:.1f} epochs",
        "time": f"about {_duration(expected.seconds)}: {pace.step:.3f} s a step, {expected.evaluations} evaluations of "
        f"{pace.evaluation:.1f} s, {pace.final:.1f} s for the final score",
        "memory": f"{expected.memory / 1e9:.2f} GB of {expected.capacity / 1e9:.2f} GB on {expected.device}",
    }.items():
        _print(Text.assemble((f"{name}: ", "bold"), told))
    _print("Nothing was written; without --dry-run it is trained.")


def show_tuning(tuning: Tuning) -> None:
    """The trials, the best of them, and the command that trains with its settings."""
    table = _table("trials, by validation accuracy", "trial", "accuracy", *tuning.best.settings)
    for trial in sorted(tuning.trials, key=lambda trial: -trial.top1):
        accuracy = _percent(trial.top1) + (" (ended early)" if trial.pruned else "")
        table.add_row(str(trial.number), accuracy, *(f"{value:g}" for value in trial.settings.values()))
    _print("", table)
    if tuning.best.number == 0:
        _print("", "Nothing was better than what the recipe chooses, which is trial 0.")
    _print("", f"next        {printable(tuning.command)}")


def show_run(run: Run) -> None:
    """Where a run ended: its score, its files, and what to do with them."""
    score, folder = run.evaluation, shlex.quote(printable(str(run.folder)))
    _print("", Text.assemble((f"{score.split} accuracy {_percent(score.top1)}", "bold"), f", {_of_images(score)}"))
    _print(f"report      {printable(str(run.folder / 'report.html'))}", f"classifier  {printable(str(run.classifier))}")
    _print(f"next        coatnet predict {folder} IMAGE...", f"            coatnet evaluate {folder}")


def show_evaluation(score: Evaluation) -> None:
    """The scores, in all and by class, and the images that could not be read."""
    part = "all images" if score.split == "all" else f"{score.split} split, images"
    table = _table(f"{part}: {score.num_images}", "score")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("top-1 accuracy", _percent(score.top1), _interval(score.top1_interval))
    if len(score.class_names) > 5:  # of five classes, the right one is always among the first five
        table.add_row("top-5 accuracy", _percent(score.top5), _interval(score.top5_interval))
    table.add_row("balanced accuracy", _percent(score.balanced_accuracy))
    table.add_row("macro F1", f"{score.macro_f1:.3f}")
    table.add_row("loss", f"{score.loss:.4f}")
    table.add_row("calibration error", f"{score.calibration_error:.4f}")
    _print(table, "", _class_table(score))
    if score.unreadable:
        became = "count as wrong" if score.bad == "wrong" else "are left out"
        _print("", Text(f"unreadable images, which {became}: {len(score.unreadable)}", "bold"))
        _print(*(Text(f"  {name}") for name in score.unreadable[:MOST_NAMES]))
        if len(score.unreadable) > MOST_NAMES:
            _print(f"  and {len(score.unreadable) - MOST_NAMES} more")


def show_scan(scan: Scan) -> None:
    """What a scan counted, and what it found wrong."""
    parts = ", ".join(f"{split} {sum(classes.values()):,}" for split, classes in scan.counts.items())
    _print(Text(f"{scan.data}: {scan.images:,} images; {parts}", "bold"), "", _count_table(scan), "")
    sizes = ", ".join(f"{one.width} x {one.height} ({one.images:,})" for one in scan.sizes[:5])
    _print(f"sizes: {scan.num_sizes:,}; most common {sizes}" if sizes else "sizes: none, no image can be read")
    _print(f"largest class: {scan.imbalance:.1f} times the smallest", *(f"note: {note}" for note in scan.notes))
    _print("", Text("\n".join(scan.problems) or "Nothing is wrong as far as a scan can see.", "bold"))
    _print_some("unreadable", [_unreadable(one) for one in scan.unreadable])
    groups = [
        " = ".join(f"{one.name} ({one.split}: {one.label})" for one in group.samples) for group in scan.duplicates
    ]
    _print_some("duplicates", groups)


def show_path(what: str, path: Path) -> None:
    """Where something was written."""
    _print("", f"{what}  {printable(str(path))}")


def show_packed(packed: Packed) -> None:
    """What was packed, and what was not."""
    folder = printable(str(packed.folder))
    size = f"{packed.num_bytes / 1e6:,.1f} MB in {packed.num_shards} shards"
    _print(f"{packed.num_images} images: {size}", f"shards  {folder}", *packed.notes)
    _print(*(f"  not packed: {name}" for name in packed.unreadable[:MOST_NAMES]))
    if len(packed.unreadable) > MOST_NAMES:
        _print(f"  and {len(packed.unreadable) - MOST_NAMES} more")


def show_answers(answers: Iterable[Answer], as_json: bool) -> list[Path]:
    """A line for each image, as soon as it is known.

    Returns:
        The images that could not be read.
    """
    unread: list[Path] = []
    for path, answer in answers:
        name = printable(str(path))
        if isinstance(answer, Exception):
            unread.append(path)
            told: dict[str, Any] = {"error": {"code": answer.code, "detail": answer.detail}}
            line = f"{name}: not read, {answer.code}: {answer.detail}"
        else:
            told = answer.as_dict()
            line = f"{name}: " + ", ".join(f"{printable(label)} {_percent(share)}" for label, share in answer.top)
        sys.stdout.write((json.dumps({"image": name, **told}) if as_json else line) + "\n")
        sys.stdout.flush()
    return unread


def show_comparison(comparison: Comparison) -> None:
    """What runs reached, and the settings in which they differ."""
    from coatnet.training.compare import result_rows

    table = _table("results", "run")
    for heading in ("steps", "images/s", "best validation", "final accuracy"):
        table.add_column(heading, justify="right")
    for row in result_rows(comparison):
        table.add_row(*(printable(text) for text in row))
    _print(table)
    if comparison.differences:
        settings = _table("settings that differ", "setting", *(run.name for run in comparison.runs))
        for name, values in comparison.differences.items():
            settings.add_row(name, *(printable(value) for value in values))
        _print("", settings)


def show_benchmark(result: Benchmark) -> None:
    """Speed in each cell, where the time goes, and what the machine could do."""
    height, width = result.image_size
    title = f"{result.model}: {height} x {width} px, {result.multiply_adds / 1e9:,.3f} G multiply-adds"
    table = _table(f"{title}; {result.device}, {result.threads} threads", "network", "runtime")
    for heading in ("batch", "images/s", "median", "p95", "of ceiling", "times peer", "memory"):
        table.add_column(heading, justify="right")
    largest = max(one.batch_size for one in result.speeds)
    for one in result.speeds:
        times = result.times_peer(one)
        own = one.model == result.model and one.batch_size == largest
        table.add_row(
            printable(one.model),
            one.runtime,
            str(one.batch_size),
            f"{one.images_per_second:,.1f}",
            f"{1000 * one.timing.median:,.1f} ms",
            f"{1000 * one.timing.p95:,.1f} ms",
            _percent(one.share_of_ceiling),
            "" if times is None else f"{times:.2f}",
            f"{result.memory[one.runtime] / 1e9:.2f} GB" if own else "",
        )
    _print(table)
    if result.stages:
        stages = _table(f"where {result.stage_runtime} spends a batch of {largest}", "part")
        for heading in ("time", "share", "GFLOP/s"):
            stages.add_column(heading, justify="right")
        whole = sum(stage.seconds for stage in result.stages)
        for stage in result.stages:
            cells = (f"{1000 * stage.seconds:,.1f} ms", _percent(stage.seconds / whole), f"{stage.flops / 1e9:,.0f}")
            stages.add_row(stage.name, *cells)
        _print("", stages)
    top = result.ceilings
    products = f"{top.float32 / 1e9:,.0f} GFLOP/s in float32, {top.bfloat16 / 1e9:,.0f} in bfloat16"
    _print("", f"ceilings: matrix product {products}; copy {top.copy / 1e9:,.1f} GB/s")
    if result.peer:
        _print(f"times peer: against the fastest runtime of {result.peer} at the same batch size, calls in turn")


def show_examination(examination: Examination) -> None:
    """What a checkpoint is, and a line for each thing that was looked at."""
    _print(Text(examination.kind, "bold"))
    for name, value in examination.facts.items():
        _print(Text.assemble((f"  {name}: ", "bold"), printable(value)))
    styles = {"fine": "green", "note": "yellow", "wrong": "bold red"}
    for finding in examination.findings:
        hint = f" ({printable(finding.hint)})" if finding.hint else ""
        _print(Text.assemble((f"{finding.level:6}", styles[finding.level]), printable(finding.text), hint))


def _print_some(title: str, lines: Sequence[str]) -> None:
    if lines:
        more = [f"  and {len(lines) - MOST_NAMES} more"] if len(lines) > MOST_NAMES else []
        _print("", Text(f"{title}: {len(lines)}", "bold"), *(Text(f"  {line}") for line in lines[:MOST_NAMES]), *more)


def _unreadable(one: Unreadable) -> str:
    return f"{one.name} ({one.split}: {one.label}): {one.code}: {one.detail}"


def _count_table(scan: Scan) -> Table:
    first = next(iter(scan.counts.values()))
    labels, title = list(first), "by class"
    if len(labels) > MOST_CLASSES:
        title = f"the {WORST_CLASSES} smallest of {len(labels)} classes"
        labels = sorted(labels, key=lambda label: first[label])[:WORST_CLASSES]
    table = _table(title, "class")
    for split in scan.counts:
        table.add_column(split, justify="right")
    for label in labels:
        table.add_row(Text(label), *(f"{classes[label]:,}" for classes in scan.counts.values()))
    return table


def _class_table(score: Evaluation) -> Table:
    listed = [one for one in score.per_class if one.support]
    title = "by class"
    if len(listed) > MOST_CLASSES:
        title = f"the {WORST_CLASSES} lowest F1 of {len(listed)} classes"
        listed = sorted(listed, key=lambda one: one.f1)[:WORST_CLASSES]
    table = _table(title, "class")
    for heading in ("images", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    for one in listed:
        table.add_row(Text(one.name), str(one.support), _percent(one.precision), _percent(one.recall), f"{one.f1:.3f}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in columns:
        table.add_column(heading, overflow="fold")
    return table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Told as any other error; rich would end the process here."""
        raise


def _print(*lines: str | Text | Table) -> None:
    console = _Console()
    for line in lines:
        # A path or a command must stay one line, to be copied; only tables fit themselves to the terminal.
        console.print(line, markup=False, highlight=False, soft_wrap=not isinstance(line, Table))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _interval(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def _of_images(score: Evaluation) -> str:
    return f"95 % interval {_interval(score.top1_interval)}, {score.num_images} images"


def show_exported(done: Exported) -> None:
    """Where an artefact is, and how its answers were proved."""
    _print(f"wrote {printable(str(done.folder))}")
    kind = "generated images" if done.generated else "images"
    for (height, width), agreement in zip(done.sizes, done.agreements, strict=False):
        _print(
            f"{height}x{width}: the same answers as torch for {agreement.images} {kind}, "
            f"logits within {agreement.largest_difference:.1e}"
        )
    if done.bfloat16_error is not None:
        _print(f"in bfloat16 on this CPU: relative error {done.bfloat16_error:.4f}")
    if done.drop is not None:
        _print(f"int8 loses {done.drop:.2f} points of accuracy")
