"""Does a heat map show what the classifier uses? Deletion and insertion curves (Petsiuk et al. 2018, RISE).

The input is cut into cells. Deletion replaces them by the mean colour, the hottest first: a good map makes the
probability of the class fall early. Insertion uncovers them in a blurred copy, the hottest first: a good map makes it
rise early. A random order of the same cells is the baseline, on the same images, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from coatnet.classifier import Classifier
from coatnet.classifier.classifier import softmax
from coatnet.explanation.explain import Explanation, HeatMap

CELLS = 8
"""Cells along each side: single pixels would measure how the network bears noise, and favour maps of single pixels."""
STEPS = 16
"""Points of a curve after its start; between two of them four of the 64 cells change."""
RANDOM_ORDERS = 5
"""Random orders of each image, whose curves are averaged."""
BLUR = 1 / 8
"""Standard deviation of the blur that insertion starts from, as a share of the shorter side: one cell."""
LEVEL = 0.95
"""Of the intervals."""

Game = Literal["deletion", "insertion"]
GAMES: tuple[Game, ...] = ("deletion", "insertion")
Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gain:
    """How much better than random, over images."""

    mean: float
    """Mean over the images of the difference of the areas, above 0 where the map is better than random: random minus
    map for deletion, map minus random for insertion."""
    low: float
    high: float
    """Interval of the mean, 95 %, Student's t over the images; the mean itself for a single image."""

    @property
    def beats_random(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0


@dataclass
class Faithfulness:
    """Curves of every image and method, and of the random baseline."""

    curves: dict[tuple[str, Game], list[Curve]] = field(default_factory=dict)
    """By the title of a map and the game: a curve for each image, STEPS + 1 probabilities from the start to the end."""
    random: dict[Game, list[Curve]] = field(default_factory=lambda: {game: [] for game in GAMES})
    """The mean curve of the random orders of each image."""

    @property
    def methods(self) -> list[str]:
        """Titles of the maps, in order."""
        return list(dict.fromkeys(title for title, _ in self.curves))

    @property
    def num_images(self) -> int:
        """Images that were measured."""
        return len(self.random["deletion"])

    def area(self, method: str | None, game: Game) -> float:
        """Mean area under the curve, 0 to 1; of the random baseline for None."""
        return float(np.mean([area(curve) for curve in self._curves(method, game)]))

    def mean_curve(self, method: str | None, game: Game) -> Curve:
        """Mean over the images; of the random baseline for None."""
        found: Curve = np.mean(self._curves(method, game), axis=0)
        return found

    def gain(self, method: str, game: Game) -> Gain:
        """A map against random, paired by image."""
        pairs = zip(self.curves[method, game], self.random[game], strict=True)
        sign = 1 if game == "insertion" else -1
        return _gain(np.array([sign * (area(curve) - area(baseline)) for curve, baseline in pairs]))

    def verdict(self, method: str) -> str:
        """What to think of a map, in some words; nothing of a single image, which tells too little."""
        if self.num_images == 1:
            return ""
        lost = [game for game in GAMES if not self.gain(method, game).beats_random]
        if len(lost) == 1:
            return f"does not beat random on {lost[0]}"
        return "does not beat random" if lost else "beats random"

    def as_dict(self) -> dict[str, Any]:
        """Areas by game, of the random order and of each map with its gain; ready for JSON."""
        told: dict[str, Any] = {"images": self.num_images}
        for game in GAMES:
            told[game] = {"random": self.area(None, game)}
            for method in self.methods:
                gain = self.gain(method, game)
                told[game][method] = {
                    "area": self.area(method, game),
                    "better_than_random": gain.mean,
                    "interval": [gain.low, gain.high],
                }
        return told

    def _curves(self, method: str | None, game: Game) -> Sequence[Curve]:
        return self.random[game] if method is None else self.curves[method, game]


def measure(classifier: Classifier, explanations: Iterable[Explanation], seed: int = 0) -> Faithfulness:
    """Deletion and insertion of every heat map that speaks of the input: all but receptive fields.

    Args:
        classifier: that was explained.
        explanations: at least one; each must have the same heat maps.
        seed: of the random orders.
    """
    found = Faithfulness()
    for position, explanation in enumerate(explanations):
        target = classifier.class_names.index(explanation.label)
        generator = np.random.default_rng((seed, position))
        orders = {one.title: cell_order(one) for one in explanation.heat_maps if one.method != "receptive_field"}
        baseline = {str(draw): generator.permutation(CELLS * CELLS) for draw in range(RANDOM_ORDERS)}
        for game in GAMES:
            curves = play(classifier, explanation.image, target, {**orders, **baseline}, game)
            found.random[game].append(np.mean([curves[name] for name in baseline], axis=0))
            for title in orders:
                found.curves.setdefault((title, game), []).append(curves[title])
    return found


def merged(parts: Sequence[Faithfulness]) -> Faithfulness:
    """Measurements of several images as one: of the maps that all of them have."""
    whole = Faithfulness()
    for part in parts:
        for game in GAMES:
            whole.random[game] += part.random[game]
    for key in parts[0].curves:
        if all(key in part.curves for part in parts):
            whole.curves[key] = [curve for part in parts for curve in part.curves[key]]
    return whole


def play(
    classifier: Classifier, image: NDArray[np.uint8], target: int, orders: Mapping[str, NDArray[np.int64]], game: Game
) -> dict[str, Curve]:
    """The probability of a class while cells change in some orders.

    Args:
        classifier: any, an exported one too.
        image: (H, W, 3) uint8 of the classifier's own size.
        target: which class.
        orders: the numbers of the CELLS * CELLS cells, by rows, each in the order of their change.
        game: what happens to the cells.

    Returns:
        For each order STEPS + 1 probabilities, the first before any cell changed.
    """
    before, after = (image, _mean_colour(classifier, image)) if game == "deletion" else (_blurred(image), image)
    cells_HW = _cell_numbers(image.shape[0], image.shape[1])
    curves = {}
    for name, order in orders.items():
        rank_HW = np.argsort(order)[cells_HW]
        counts = np.linspace(0, CELLS * CELLS, STEPS + 1)
        stages = [np.where((rank_HW < count)[..., None], after, before) for count in counts]
        logits = classifier.engine.logits(classifier.preprocess.normalized(np.stack(stages)))
        curves[name] = softmax(logits)[:, target]
    return curves


def cell_order(heat_map: HeatMap) -> NDArray[np.int64]:
    """The cells from the hottest to the coldest, by the mean of the map in each; equal ones in the order of their
    numbers."""
    values = resized(heat_map.values, (CELLS * 8, CELLS * 8))
    means = values.reshape(CELLS, 8, CELLS, 8).mean((1, 3)).ravel()
    return np.argsort(-means, kind="stable")


def resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map at another size: bilinear where it grows, the mean of what falls together where it shrinks."""
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    found: NDArray[np.float32] = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    return found


def area(curve: Curve) -> float:
    """Under a curve over the share of cells that have changed: 0 to 1."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def _gain(differences: NDArray[np.float64]) -> Gain:
    from scipy import stats

    mean = float(differences.mean())
    if len(differences) == 1 or np.ptp(differences) == 0:
        return Gain(mean, mean, mean)
    reach = stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences)
    return Gain(mean, float(mean - reach), float(mean + reach))


def _cell_numbers(height: int, width: int) -> NDArray[np.int64]:
    """The number of the cell of each pixel, `(H, W)`."""
    rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    return rows[:, None] * CELLS + columns[None, :]


def _mean_colour(classifier: Classifier, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What normalisation makes 0."""
    colour = np.rint(255 * np.array(classifier.preprocess.mean)).astype(np.uint8)
    return np.broadcast_to(colour, image.shape)


def _blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blur = ImageFilter.GaussianBlur(BLUR * min(image.shape[:2]))
    return np.asarray(Image.fromarray(image).filter(blur))
