"""Plots as PNG files, from plain numbers. Each function writes one file and leaves no state behind.

matplotlib is imported inside the functions and used through `Figure` alone: no pyplot, no backend, no display.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design": told apart with every common colour blindness.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
SKY, BLACK = "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("", "o", "s", "^", "D")
MARKED = 40
"""Most points of a line that are marked one by one: more would hide it."""
DPI = 130
ANNOTATED = 20
"""Most classes whose confusion counts are written into the cells."""
LABELLED = 50
"""Most classes whose names are written beside the confusion matrix."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a plot.

    Args:
        name: what the legend calls it.
        x: positions, N numbers.
        y: N values; one that is not finite leaves a gap.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines or points on one pair of axes.

    Args:
        title: above it.
        x, y: what the axes show.
        series: the same name has the same colour in all panels of a figure.
        log_x, log_y: logarithmic axes.
        labels: for each series a text beside each of its points, which then are not joined; or none, for lines.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    labels: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One histogram.

    Args:
        title: what is counted.
        labels: N texts, one below each bar.
        counts: N numbers.
    """

    title: str
    labels: Sequence[str]
    counts: Sequence[int]


def curves(path: Path, losses: Sequence[Series], rates: Sequence[Series] = ()) -> None:
    """Losses against the step above, rates (fractions, drawn in per cent) below on the same steps. The same
    name has the same colour in both.

    A loss that falls by more than a factor of 20 gets a logarithmic axis. Beyond 300 points the raw line is drawn pale
    under its running median, so that the noise of single batches does not hide the course.
    """
    num_panels = 1 + bool(rates)
    figure = _figure(7, 2.8 * num_panels)
    panels = figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0]
    for position, one in enumerate(losses):
        _draw_line(panels[0], one, position)
    values = np.concatenate([np.asarray(one.y, dtype=float) for one in losses]) if losses else np.ones(1)
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() / values.min() > 20:
        panels[0].set_yscale("log")
        _tell_logarithms(panels[0].yaxis)
    panels[0].set_ylabel("loss")
    if rates:
        same = {one.name: position for position, one in enumerate(losses)}
        for position, one in enumerate(rates, start=1):
            percent = Series(name=one.name, x=one.x, y=[100 * value for value in one.y])
            _draw_line(panels[1], percent, same.get(one.name, position))
        panels[1].set_ylabel("per cent")
    panels[-1].set_xlabel("step")
    for panel in panels:
        if panel.lines:
            for text in panel.legend(frameon=False).get_texts():
                text.set_parse_math(False)
    _write(figure, path)


def panels(path: Path, shown: Sequence[Panel]) -> None:
    """Panels side by side, with one legend below them."""
    figure = _figure(4.6 * len(shown), 3.9)
    all_axes = figure.subplots(1, len(shown), squeeze=False)[0]
    names = list(dict.fromkeys(one.name for panel in shown for one in panel.series))
    handles: dict[str, Any] = {}
    for panel, axes in zip(shown, all_axes, strict=True):
        axes.set_xscale("log" if panel.log_x else "linear")
        axes.set_yscale("log" if panel.log_y else "linear")
        for one in panel.series:
            position = names.index(one.name)
            marker = MARKERS[1 + position % (len(MARKERS) - 1)] if len(one.x) <= MARKED else ""
            style = {"color": COLOURS[position % len(COLOURS)], "marker": marker}
            line = "none" if panel.labels else "-"
            (handles[one.name],) = axes.plot(one.x, one.y, linestyle=line, markersize=4, label=one.name, **style)
        for axis, is_logarithmic in ((axes.xaxis, panel.log_x), (axes.yaxis, panel.log_y)):
            if is_logarithmic:
                _tell_logarithms(axis)
        axes.set(xlabel=panel.x, ylabel=panel.y)
        if panel.labels:
            axes.margins(0.2)  # room for the texts
        axes.set_title(panel.title, fontsize=10, parse_math=False)
    legend = figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=6, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    for panel, axes in zip(shown, all_axes, strict=True):
        if panel.labels:
            _label_points(figure, axes, panel)
    _write(figure, path)


def receptive_fields(path: Path, gradients: Mapping[str, NDArray[np.float32]]) -> None:
    """The gradient of one place for each pixel, side by side for several networks: black where there is none. The
    colours are logarithmic over four decades, since it falls steeply.

    Args:
        path: the PNG file to write.
        gradients: by the network's name, each (H, W), not negative.
    """
    side = 4.0 if len(gradients) == 1 else 2.0
    figure = _figure(side * len(gradients), side + 0.3)
    for axes, (name, gradient) in zip(
        figure.subplots(1, len(gradients), squeeze=False)[0], gradients.items(), strict=True
    ):
        strongest = gradient.max() or 1.0
        axes.imshow(np.log10(np.clip(gradient / strongest, 1e-4, 1)), cmap="inferno", vmin=-4, vmax=0)
        axes.set_title(shortened(name, 40), parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
    _write(figure, path)


def confusion(path: Path, matrix: NDArray[np.integer[Any]], class_names: Sequence[str]) -> None:
    """A confusion matrix, rows true and columns predicted, coloured by the fraction of the row.

    Up to 20 classes the counts stand in the cells, up to 50 the names stand at the sides; beyond that only the picture
    is drawn, its axes numbered by class.

    Args:
        path: the PNG file to write.
        matrix: (C, C) counts.
        class_names: C names; long ones are shortened.
    """
    num_classes = len(class_names)
    assert matrix.shape == (num_classes, num_classes), matrix.shape
    side = min(4 + 0.32 * num_classes, 12) if num_classes <= LABELLED else 7
    figure = _figure(side + 1, side)
    figure.set_layout_engine("compressed")  # squares: the other layout forgets them and cuts texts off
    axes = figure.subplots()
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if num_classes <= LABELLED:
        names = [shortened(name, 18) for name in class_names]
        size = 10 if num_classes <= ANNOTATED else 7
        flat = max(len(name) for name in names) <= 2
        axes.set_xticks(range(num_classes), names, rotation=0 if flat else 60, ha="center" if flat else "right")
        axes.set_yticks(range(num_classes), names)
        axes.tick_params(labelsize=size, length=0)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)
        for label in () if flat else axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    if num_classes <= ANNOTATED:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if fractions[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    _write(figure, path)


def reliability(
    path: Path, bins: Sequence[tuple[float, float, int, float | None, float | None]], calibration_error: float
) -> None:
    """How often answers are right against how sure they are, above the number of answers in each bin.

    Args:
        path: the PNG file to write.
        bins: (low, high, count, mean confidence, accuracy) of each bin; the last two None in an empty one.
        calibration_error: written into the title, a fraction.
    """
    figure = _figure(6, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [one for one in bins if one[2] and one[4] is not None]
    lows, widths = [one[0] for one in filled], [one[1] - one[0] for one in filled]
    upper.bar(lows, [one[4] or 0 for one in filled], widths, align="edge", color=BLUE, alpha=0.35, edgecolor=BLUE)
    upper.plot([one[3] for one in filled], [one[4] for one in filled], "o", color=BLUE, label="answers of a bin")
    upper.plot([0, 1], [0, 1], "--", color="#444444", label="perfectly calibrated")
    upper.set(ylim=(0, 1.02), xlim=(0, 1), ylabel="fraction right")
    upper.set_title(f"expected calibration error {100 * calibration_error:.1f} %")
    upper.legend(frameon=False, loc="upper left")
    lower.bar(lows, [one[2] for one in filled], widths, align="edge", color=VERMILION, alpha=0.5, edgecolor=VERMILION)
    lower.set(ylabel="answers", xlabel="probability of the answer")
    _write(figure, path)


def histograms(path: Path, panels: Sequence[Bars]) -> None:
    """Bars side by side, one panel for each histogram, every bar with its count."""
    figure = _figure(4.2 * len(panels), 3.2)
    for one, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        bars = axes.bar(range(len(one.counts)), one.counts, color=BLUE, alpha=0.5, edgecolor=BLUE)
        axes.bar_label(bars, [f"{count:,}" if count else "" for count in one.counts], fontsize=8)
        axes.set_xticks(range(len(one.labels)), one.labels, rotation=40, ha="right", fontsize=8)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(one.title, fontsize=10)
    _write(figure, path)


def throughput(path: Path, networks: Mapping[str, Sequence[Series]], title: str) -> None:
    """Images per second against the batch size, which gets a logarithmic axis.

    Args:
        path: the PNG file to write.
        networks: by name, at most two, the second drawn dashed; each has at least one series, named after its runtime,
            whose x are batch sizes. The same runtime has the same colour in both.
        title: written above.
    """
    figure = _figure(8.5, 4.5)
    axes = figure.subplots()
    runtimes = list(dict.fromkeys(one.name for shown in networks.values() for one in shown))
    styles: tuple[dict[str, Any], ...] = ({}, {"linestyle": "--", "markerfacecolor": "white"})
    for (network, shown), style in zip(networks.items(), styles, strict=False):
        for one in shown:
            colour = COLOURS[runtimes.index(one.name) % len(COLOURS)]
            axes.plot(one.x, one.y, label=f"{network}, {one.name}", color=colour, marker="o", markersize=5, **style)
    sizes = sorted({size for shown in networks.values() for one in shown for size in one.x})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="batch size", ylabel="images per second")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_title(title, fontsize=10, parse_math=False)
    # in the order of the lines' right ends
    lines = sorted(axes.get_lines(), key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    for text in figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    _write(figure, path)


def mosaic(path: Path, images: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str) -> None:
    """Images in a grid, at most four in a row, each with its caption below.

    Args:
        path: the PNG file to write.
        images: at least one, each (H, W, 3) uint8 RGB of any size.
        captions: one per image; a line break starts a new line.
        title: written above.
    """
    assert len(images) == len(captions) > 0, (len(images), len(captions))
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    num_lines = max(caption.count("\n") + 1 for caption in captions)
    figure = _figure(1.75 * max(columns, 3), (1.75 + 0.18 * num_lines) * rows + 0.4)
    figure.suptitle(title, fontsize=12, parse_math=False)
    for position, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if position < len(images):
            height, width = images[position].shape[:2]
            side = max(height, width)
            axes.imshow(images[position], interpolation="antialiased")
            axes.set_xlim((width - side) / 2 - 0.5, (width + side) / 2 - 0.5)  # a square, the image in its middle
            axes.set_ylim((height + side) / 2 - 0.5, (height - side) / 2 - 0.5)
            text = "\n".join(shortened(line, 24) for line in captions[position].split("\n"))
            axes.set_xlabel(text, fontsize=9, parse_math=False)
    _write(figure, path)


def shortened(text: str, length: int) -> str:
    """`text` with its middle left out where it is longer than `length`, so that both ends stay readable."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _draw_line(axes: "Axes", one: Series, position: int) -> None:
    x, y = np.asarray(one.x, dtype=float), np.asarray(one.y, dtype=float)
    colour = COLOURS[position % len(COLOURS)]
    if len(x) > 300:
        axes.plot(x, y, color=colour, alpha=0.2, linewidth=0.8)
        window = len(x) // 50
        middle = [np.median(y[max(0, i - window) : i + window + 1]) for i in range(len(x))]
        axes.plot(x, middle, color=colour, label=f"{one.name} (running median)")
        return
    marker = MARKERS[position % len(MARKERS)] if len(x) <= MARKED else ""
    axes.plot(x, y, color=colour, label=one.name, marker=marker or ("o" if len(x) == 1 else ""), markersize=4)


def _tell_logarithms(axis: "Axis") -> None:
    """Ticks of a logarithmic axis as plain numbers, few enough to be read."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 10 * low:
        axis.set_major_locator(MaxNLocator(5))
    elif high < 1000 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _label_points(figure: "Figure", axes: "Axes", panel: Panel) -> None:
    """Each text as near to its point as it covers no point and no other text, with a line to the point; long texts,
    which fit in few places, choose first."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # only now is it known what lies where
    dots = figure.dpi / 72  # per point of a font
    points = [(x, y) for one in panel.series for x, y in zip(one.x, one.y, strict=True)]
    places = axes.transData.transform(points)
    taken = [Bbox.from_extents(x - 3 * dots, y - 3 * dots, x + 3 * dots, y + 3 * dots) for x, y in places]
    labels = [label for texts in panel.labels for label in texts]
    for point, (x, y), label in sorted(zip(points, places, labels, strict=True), key=lambda one: -len(one[2])):
        if not label:
            continue
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
        style: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center", "parse_math": False, "arrowprops": line}
        note = axes.annotate(label, point, (0, 0), textcoords="offset points", **style)
        note.set_in_layout(False)
        size = note.get_window_extent()
        for distance, angle in itertools.product(range(8, 96, 8), range(0, 360, 30)):
            across = distance * math.cos(math.radians(angle)) * dots + math.cos(math.radians(angle)) * size.width / 2
            up = distance * math.sin(math.radians(angle)) * dots
            box = Bbox.from_bounds(x + across - size.width / 2, y + up - size.height / 2, size.width, size.height)
            is_inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0 < axes.bbox.y1
            if is_inside and not box.count_overlaps(taken):
                break
        note.set_position((across / dots, up / dots))
        taken.append(box)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _write(figure: "Figure", path: Path) -> None:
    """Names may hold any character: glyphs that the font lacks are drawn as boxes."""
    import warnings

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(path, format="png", dpi=DPI)
