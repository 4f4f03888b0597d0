"""plots/ and report.html of a run: what came out, what was chosen and why, and how to go on. For people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coatnet.evaluation.metrics import Evaluation
from coatnet.pages.page import Picture, Section, Table, write_page
from coatnet.pages.plots import LABELLED, Series, confusion, curves, mosaic, reliability

MOSAIC_SIZE = 12
"""Images of a mosaic: three rows of four."""
MOSAICS = {
    "wrong": "Wrong answers, the surest first",
    "sure": "Right answers, the surest first",
    "unsure": "Right answers, the least sure first",
}
NUM_PAIRS = 10


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a mosaic.

    Args:
        position: which answer of the evaluation it belongs to.
        image: (H, W, 3) uint8 RGB, as decoded.
    """

    position: int
    image: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ReportText:
    """What the report says besides the scores.

    Args:
        title: heading of the page.
        facts: names and values about the run: model, data, duration, ...
        choices: sentences: what was chosen and why.
        commands: lines that use the classifier.
        environment: names and values: versions, device, threads, commit.
    """

    title: str
    facts: Mapping[str, str]
    choices: Sequence[str] = ()
    commands: Sequence[str] = ()
    environment: Mapping[str, str]


def mosaic_positions(evaluation: Evaluation, count: int = MOSAIC_SIZE) -> dict[str, list[int]]:
    """Which answers the mosaics show, so that only their images need decoding again.

    Returns:
        For each name of MOSAICS at most `count` positions in the evaluation's answers, in the order to show them.
    """
    answers = evaluation.answers
    right = answers.predicted == answers.labels
    surest = np.argsort(-answers.probability, kind="stable")
    positions = {
        "wrong": surest[~right[surest]],
        "sure": surest[right[surest]],
        "unsure": surest[right[surest]][::-1],
    }
    return {name: found[:count].tolist() for name, found in positions.items()}


def write_report(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]],
    evaluation: Evaluation,
    samples: Sequence[Sample],
    text: ReportText,
) -> Path:
    """Write `folder`/plots and `folder`/report.html; what is there is replaced.

    Args:
        folder: the run folder.
        metrics: lines of metrics.jsonl, steps increasing. Training: `step`, `loss`, `images_per_second`, ...;
            evaluations also hold `evaluation` (the split), and `top1`, `top5` as fractions.
        evaluation: the final scores.
        samples: images for the mosaics, those of `mosaic_positions`; one that is missing is left out.
        text: the words.

    Returns:
        The path of report.html.
    """
    plots = folder / "plots"
    _draw(plots, metrics, evaluation)
    shown = _draw_mosaics(plots, evaluation, {sample.position: sample.image for sample in samples})
    speed = [line["images_per_second"] for line in metrics if "images_per_second" in line]
    facts = dict(text.facts)
    if speed:
        facts["training speed"] = f"{np.median(speed):,.0f} images per second (median)"
    sections = [
        _score_section(evaluation, facts),
        Section(title="What was chosen, and why", bullets=text.choices),
        Section(title="Training", pictures=[Picture(path=plots / "curves.png", alt="loss and accuracy by step")]),
        _confusion_section(plots, evaluation),
        _calibration_section(plots, evaluation),
        Section(title="Classes", tables=[_class_table(evaluation)]),
        Section(title="Answers", pictures=shown),
        Section(title="Use the classifier", commands=text.commands),
        Section(title="Environment", facts=text.environment),
    ]
    path = folder / "report.html"
    write_page(path, text.title, [section for section in sections if not section.is_empty])
    return path


def per_cent(fraction: float) -> str:
    """0.934 -> `93.4 %`."""
    return f"{100 * fraction:.1f} %"


def _draw(plots: Path, metrics: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> None:
    evaluations: dict[str, list[Mapping[str, Any]]] = {}
    for line in metrics:
        if "evaluation" in line:
            evaluations.setdefault(str(line["evaluation"]), []).append(line)
    losses = [_series("training", "loss", [line for line in metrics if "evaluation" not in line])]
    losses += [_series(split, "loss", lines) for split, lines in evaluations.items()]
    rates = [_series(f"{split} top-1", "top1", lines) for split, lines in evaluations.items()]
    curves(plots / "curves.png", [one for one in losses if one.x], [one for one in rates if one.x])
    confusion(plots / "confusion.png", evaluation.confusion, evaluation.class_names)
    bins = [(one.low, one.high, one.count, one.confidence, one.accuracy) for one in evaluation.reliability]
    reliability(plots / "reliability.png", bins, evaluation.calibration_error)


def _series(name: str, key: str, lines: Sequence[Mapping[str, Any]]) -> Series:
    held = [line for line in lines if line.get(key) is not None]
    return Series(name=name, x=[line["step"] for line in held], y=[line[key] for line in held])


def _draw_mosaics(plots: Path, evaluation: Evaluation, images: Mapping[int, NDArray[np.uint8]]) -> list[Picture]:
    answers, names = evaluation.answers, evaluation.class_names
    pictures = []
    for kind, positions in mosaic_positions(evaluation).items():
        path = plots / f"{kind}.png"
        path.unlink(missing_ok=True)
        held = [position for position in positions if position in images]
        if not held:
            continue
        captions = []
        for position in held:
            true, predicted = names[answers.labels[position]], names[answers.predicted[position]]
            sure = per_cent(answers.probability[position])
            captions.append(f"{true}\n{sure}" if true == predicted else f"is {true}\nsays {predicted}\n{sure}")
        mosaic(path, [images[position] for position in held], captions, MOSAICS[kind])
        pictures.append(Picture(path=path, alt=f"{MOSAICS[kind]}: images with their names"))
    return pictures


def _score_section(evaluation: Evaluation, facts: Mapping[str, str]) -> Section:
    low, high = evaluation.top1_interval
    paragraphs = [
        f"On {evaluation.num_images:,} images of the split “{evaluation.split}”. With 95 % confidence the true "
        f"accuracy lies between {per_cent(low)} and {per_cent(high)} (Wilson score interval)."
    ]
    if evaluation.unreadable:
        count, more = len(evaluation.unreadable), ", …" if len(evaluation.unreadable) > 10 else ""
        fate = ("counts as wrong", "count as wrong") if evaluation.bad == "wrong" else ("is left out", "are left out")
        subject = "1 image could not be read. It" if count == 1 else f"{count:,} images could not be read. They"
        paragraphs.append(f"{subject} {fate[count > 1]}: {', '.join(evaluation.unreadable[:10])}{more}.")
    scores = {
        "mean recall of the classes": per_cent(evaluation.balanced_accuracy),
        "loss": f"{evaluation.loss:.3f}",
        "calibration error": per_cent(evaluation.calibration_error),
    }
    if len(evaluation.class_names) > 5:
        scores = {"among the first five": per_cent(evaluation.top5)} | scores
    return Section(
        title="Score",
        headline=f"{per_cent(evaluation.top1)} of the answers are right",
        text=paragraphs,
        facts=scores | dict(facts),
    )


def _confusion_section(plots: Path, evaluation: Evaluation) -> Section:
    names = evaluation.class_names
    mistakes = evaluation.confusion - np.diag(evaluation.confusion.diagonal())
    worst = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_PAIRS]
    cells = [(cell // len(names), cell % len(names)) for cell in worst if mistakes.flat[cell]]
    support = evaluation.confusion.sum(axis=1)
    rows = [
        (names[true], names[said], str(mistakes[true, said]), per_cent(mistakes[true, said] / support[true]))
        for true, said in cells
    ]
    table = Table(
        columns=("true", "predicted", "images", "of the true class"),
        rows=rows,
        caption="Most common mistakes",
        num_names=2,
    )
    note = "" if len(names) <= LABELLED else f"Classes in the order of the table below, 0 to {len(names) - 1}."
    picture = Picture(path=plots / "confusion.png", alt="confusion matrix, rows true, columns predicted", caption=note)
    return Section(title="Confusion", pictures=[picture], tables=[table] if rows else [])


def _calibration_section(plots: Path, evaluation: Evaluation) -> Section:
    return Section(
        title="Calibration",
        text=[
            "A calibrated classifier that says 80 % is right in 80 % of such answers. Bars below the line: too sure."
        ],
        pictures=[Picture(path=plots / "reliability.png", alt="fraction right against probability")],
    )


def _class_table(evaluation: Evaluation) -> Table:
    rows = [
        (score.name, str(score.support), per_cent(score.recall), per_cent(score.precision), per_cent(score.f1))
        for score in evaluation.per_class
    ]
    return Table(columns=("class", "images", "recall", "precision", "F1"), rows=rows)
