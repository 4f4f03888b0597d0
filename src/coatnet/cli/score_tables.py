"""Answers and scores in tables: predictions, evaluations, exports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from coatnet.cli.printing import (
    MOST_CLASSES,
    WORST_CLASSES,
    interval,
    new_table,
    percent,
    print_lines,
    print_now,
    print_some,
)
from coatnet.data.samples import printable

if TYPE_CHECKING:
    from coatnet.cli.answers import Answer
    from coatnet.evaluation.metrics import Evaluation
    from coatnet.export.export import Exported


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
            line = f"{name}: " + ", ".join(f"{printable(label)} {percent(share)}" for label, share in answer.top)
        print_now(json.dumps({"image": name, **told}) if as_json else line)
    return unread


def show_evaluation(score: Evaluation) -> None:
    """The scores, in all and by class, and the images that could not be read."""
    part = "all images" if score.split == "all" else f"{score.split} split, images"
    table = new_table(f"{part}: {score.num_images}", "score")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("top-1 accuracy", percent(score.top1), interval(score.top1_interval))
    if len(score.class_names) > 5:  # of five classes, the right one is always among the first five
        table.add_row("top-5 accuracy", percent(score.top5), interval(score.top5_interval))
    table.add_row("balanced accuracy", percent(score.balanced_accuracy))
    table.add_row("macro F1", f"{score.macro_f1:.3f}")
    table.add_row("loss", f"{score.loss:.4f}")
    table.add_row("calibration error", f"{score.calibration_error:.4f}")
    print_lines(table, "", _class_table(score))
    if score.unreadable:
        became = "count as wrong" if score.bad == "wrong" else "are left out"
        print_some(f"unreadable images, which {became}", score.unreadable)


def show_exported(done: Exported) -> None:
    """Where an artefact is, and how its answers were proved."""
    print_lines(f"wrote {printable(str(done.folder))}")
    kind = "generated images" if done.generated else "images"
    for (height, width), agreement in zip(done.sizes, done.agreements, strict=False):
        print_lines(
            f"{height}x{width}: the same answers as torch for {agreement.images} {kind}, "
            f"logits within {agreement.largest_difference:.1e}"
        )
    if done.bfloat16_error is not None:
        print_lines(f"in bfloat16 on this CPU: relative error {done.bfloat16_error:.4f}")
    if done.drop is not None:
        print_lines(f"int8 loses {done.drop:.2f} points of accuracy")


def _class_table(score: Evaluation) -> Table:
    listed = [one for one in score.per_class if one.support]
    title = "by class"
    if len(listed) > MOST_CLASSES:
        title = f"the {WORST_CLASSES} lowest F1 of {len(listed)} classes"
        listed = sorted(listed, key=lambda one: one.f1)[:WORST_CLASSES]
    table = new_table(title, "class")
    for heading in ("images", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    for one in listed:
        table.add_row(Text(one.name), str(one.support), percent(one.precision), percent(one.recall), f"{one.f1:.3f}")
    return table
