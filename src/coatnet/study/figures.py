"""The figures of a study, each a PNG file with its data beside it as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.pages import plots
from coatnet.pages.page import Picture
from coatnet.pages.plots import Panel, Series, panels
from coatnet.study.networks import Study
from coatnet.study.published import TABLE_4, TABLE_5, PublishedPoint
from coatnet.study.results import Moment, Result, write_csv


def figure(folder: Path, name: str, shown: Sequence[Panel], caption: str) -> Picture:
    """Write NAME.png, and NAME.csv with a row for each point."""
    rows = [
        {"panel": panel.title, "series": one.name, "label": label, panel.x: x, panel.y: y}
        for panel in shown
        for place, one in enumerate(panel.series)
        for x, y, label in zip(one.x, one.y, panel.labels[place] if panel.labels else [""] * len(one.x), strict=True)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(folder / f"{name}.csv", [{column: row.get(column, "") for column in columns} for row in rows])
    panels(folder / f"{name}.png", shown)
    return Picture(path=folder / f"{name}.png", alt=caption, caption=f"{caption} Data: {name}.csv.")


def curves(folder: Path, name: str, results: Sequence[Result], caption: str) -> Picture:
    """The paper's Figure 1 for runs of one setting, means over seeds: training loss and validation accuracy against the
    step, and against each other."""
    arms = list(dict.fromkeys(one.run.arm for one in results))
    courses = {arm: _mean([one.moments for one in results if one.run.arm == arm]) for arm in arms}
    steps, loss, accuracy = "step", "training loss (eval mode)", "validation accuracy, %"

    def lines(x: str, y: str) -> list[Series]:
        told = {steps: lambda one: one.step, loss: lambda one: one.train_loss, accuracy: lambda one: 100 * one.val_top1}
        return [
            Series(name=arm, x=[told[x](one) for one in course], y=[told[y](one) for one in course])
            for arm, course in courses.items()
        ]

    shown = [
        Panel(title="training", x=steps, y=loss, series=lines(steps, loss), log_y=True),
        Panel(title="evaluation", x=steps, y=accuracy, series=lines(steps, accuracy)),
        Panel(title="one against the other", x=loss, y=accuracy, series=lines(loss, accuracy), log_x=True),
    ]
    return figure(folder, name, shown, caption)


def costs(folder: Path, study: Study, accuracy: dict[str, float]) -> Picture:
    """Accuracy against parameters and multiply-adds: this study's networks, and the paper's Tables 4 and 5."""
    parameters, work, top1 = "parameters, millions", "multiply-adds, 10^9", "top-1, %"
    own = [study.arm(name) for name in accuracy]

    def panel(title: str, x: str) -> Panel:
        by_size = x == parameters
        mine = Series(
            name="this study, on its data",
            x=[arm.parameters / 1e6 if by_size else arm.multiply_adds / 1e9 for arm in own],
            y=[100 * accuracy[arm.name] for arm in own],
        )
        series, labels = [mine], [[arm.name for arm in own]]
        for name, points in _references().items():
            held = [(at, point) for point in points if (at := point.parameters if by_size else point.multiply_adds)]
            series.append(Series(name=name, x=[at for at, _ in held], y=[point.top1 for _, point in held]))
            labels.append(_labels([point for _, point in held]) if "CoAtNet" in name else [""] * len(held))
        return Panel(title=title, x=x, y=top1, series=series, labels=labels, log_x=True)

    caption = (
        "Accuracy against cost. The paper's points are on ImageNet-1K, for reference; accuracies on other data do not "
        "compare with them."
    )
    return figure(folder, "costs", [panel("by size", parameters), panel("by work", work)], caption)


def receptive_fields(folder: Path, gradients: Mapping[str, NDArray[np.float32]]) -> Picture:
    """What the feature at the centre sees of an image, by network: gradients `(H, W)`."""
    rows = [
        {"network": name, "row": row, "column": column, "gradient": float(value)}
        for name, gradient in gradients.items()
        for (row, column), value in np.ndenumerate(gradient)
    ]
    write_csv(folder / "receptive_fields.csv", rows)
    plots.receptive_fields(folder / "receptive_fields.png", gradients)
    caption = (
        "Gradient of the feature at the centre for each pixel of an image, in logarithmic colours over four decades. "
        "Data: receptive_fields.csv."
    )
    return Picture(path=folder / "receptive_fields.png", alt="effective receptive fields", caption=caption)


def _references() -> dict[str, list[PublishedPoint]]:
    found: dict[str, list[PublishedPoint]] = {}
    for point in (*TABLE_4, *TABLE_5):
        kind = "CoAtNet" if point.model.startswith("CoAtNet") else "others"
        found.setdefault(f"{point.table}: {kind}", []).append(point)
    return found


def _labels(points: Sequence[PublishedPoint]) -> list[str]:
    """Each model once: its points lie close together."""
    names = [point.model for point in points]
    return [name if name not in names[:place] else "" for place, name in enumerate(names)]


def _mean(courses: Sequence[Sequence[Moment]]) -> list[Moment]:
    """The mean of runs that were evaluated at the same steps."""
    steps = [moment.step for moment in courses[0]]
    same = [course for course in courses if [moment.step for moment in course] == steps]
    means = np.mean(np.array(same), axis=0)
    return [Moment(step, *row[1:]) for step, row in zip(steps, means.tolist(), strict=True)]
