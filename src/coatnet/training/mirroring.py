"""Whether classes survive mirroring: an arrow to the left that is mirrored is an arrow to the right. No torch.

Names are asked first, then images: a linear readout of small images, trained on three quarters of them, names the rest
as they are and mirrored. Where classes survive mirroring it is right as often. See benchmarks/mirroring.md.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.data.images import ImageError, decode
from coatnet.data.samples import Source, some

SAMPLED = 512
"""Images looked at: enough for arrows on cluttered grounds, decoded in about a second."""
_SIDE = 32
_CELLS = 8
_ANGLES = 8
_FOLDS = 4
_RIDGE = 0.3
_LOST = 0.8
"""Mirrored images that are named right, as a share of those as they are, below which classes do not survive."""
_FEWEST = 10
"""Images of a class from which two classes that swap are believed."""
# Left and right in languages of class names; single letters as in "eye_l".
_SIDES = (
    *(("left", "right"), ("l", "r"), ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha")),
    *(("izquierdo", "derecho"), ("esquerda", "direita"), ("esquerdo", "direito"), ("sinistra", "destra")),
    *(("sinistro", "destro"), ("vänster", "höger"), ("venstre", "højre"), ("venstre", "høyre"), ("lewo", "prawo")),
    *(("vlevo", "vpravo"), ("влево", "вправо"), ("налево", "направо"), ("左", "右"), ("sol", "sağ")),
)


class Mirroring(NamedTuple):
    """Whether training may mirror images."""

    allowed: bool
    reason: str


def find_mirroring(source: Source) -> Mirroring:
    """Ask the names of the classes, then some images spread over the source."""
    pair = names_of_sides(source.class_names)
    if pair:
        return Mirroring(False, f"class names tell left from right: {some(pair)}")
    images, labels = _sample(source)
    if len(images) < 2 * _FOLDS:
        return Mirroring(True, "there are too few images to see whether classes survive it")
    return judge(images, labels, source.class_names)


def names_of_sides(class_names: Sequence[str]) -> tuple[str, ...]:
    """The first two class names that differ by nothing but left and right; none if there are no such."""
    by_words = {_words(name): name for name in class_names}
    for left, right in _SIDES:
        for words, name in by_words.items():
            other = tuple(right if word == left else word for word in words)
            if other != words and other in by_words:
                return name, by_words[other]
    return ()


def judge(images: NDArray[np.float32], labels: NDArray[np.int64], class_names: Sequence[str]) -> Mirroring:
    """Compare what a readout makes of images and of their mirror images.

    Args:
        images: (N, 32, 32, 3), 0 to 255.
        labels: (N,) indices into `class_names`.
        class_names: for the reason.
    """
    named, mirrored = _named(images, labels, len(class_names))
    right, still = int((named == labels).sum()), int((mirrored == labels).sum())
    told = f"of {len(labels)} images a linear readout names {right} right, mirrored {still}"
    # Three standard deviations of the difference of two counts.
    if still < _LOST * right and right - still > 3 * (right + still) ** 0.5:
        return Mirroring(False, f"mirrored images look unlike their class: {told}")
    pair = _swapped(named, mirrored, labels)
    if pair:
        return Mirroring(False, f"classes that swap when mirrored: {some([class_names[each] for each in pair])}")
    return Mirroring(True, f"mirrored images look like their class: {told}")


def _words(name: str) -> tuple[str, ...]:
    """turnLeft, turn_left and "turn left" are the same words; signs of East Asia are words of their own."""
    return tuple(re.findall(r"[左右]|\d+|[^\W\d_左右]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def _sample(source: Source) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    images, labels = [], []
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)).tolist():
        try:
            image = Image.fromarray(decode(source.read(index), enough=_SIDE))
        except ImageError:
            continue
        images.append(np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float32))
        labels.append(source.labels[index])
    return np.array(images, np.float32), np.array(labels, np.int64)


def _named(
    images: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What images and mirror images are named by readouts that were trained on other images."""
    features, mirrored = _features(images), _features(images[:, :, ::-1])
    folds = np.random.default_rng(0).permutation(len(labels)) % _FOLDS
    found = np.zeros((2, len(labels)), np.int64)
    targets = np.eye(num_classes)[labels]
    for fold in range(_FOLDS):
        held = folds == fold
        mean, mean_target = features[~held].mean(0), targets[~held].mean(0)
        known = features[~held] - mean
        products = known @ known.T
        products += _RIDGE * np.trace(products) / len(products) * np.eye(len(products))
        weights = known.T @ np.linalg.solve(products, targets[~held] - mean_target)
        for row, each in zip(found, (features, mirrored), strict=True):
            row[held] = ((each[held] - mean) @ weights + mean_target).argmax(1)
    return found[0], found[1]


def _features(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, F): colours of 16 x 16 px, and how strong edges of each angle are in 8 x 8 cells (Dalal and Triggs 2005)."""
    num, half, cell = len(images), _SIDE // 2, _SIDE // _CELLS
    colours = images.reshape(num, half, 2, half, 2, 3).mean((2, 4)).reshape(num, -1) / (255 * half)
    grey = images.mean(3)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    angle = (np.arctan2(down, across) % np.pi / np.pi * _ANGLES).astype(int).clip(0, _ANGLES - 1)
    strength = np.hypot(across, down)
    by_angle = [strength * (angle == one) for one in range(_ANGLES)]
    cells = np.stack([each.reshape(num, _CELLS, cell, _CELLS, cell).sum((2, 4)) for each in by_angle], 3)
    edges = np.sqrt(cells).reshape(num, -1)
    edges /= np.linalg.norm(edges, axis=1, keepdims=True) + 1e-6
    return np.hstack([colours, edges]).astype(np.float64)


def _swapped(
    named: NDArray[np.int64], mirrored: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[int, int] | None:
    """Two classes: half of each at least are named right as they are, and as the other class when mirrored."""
    becomes: dict[int, int] = {}
    for label in np.unique(labels).tolist():
        ours = labels == label
        values, counts = np.unique(mirrored[ours], return_counts=True)
        most = int(values[counts.argmax()])
        often = 2 * counts.max() >= ours.sum() and 2 * (named[ours] == label).sum() >= ours.sum()
        if ours.sum() >= _FEWEST and often and most != label:
            becomes[label] = most
    return next(((a, b) for a, b in becomes.items() if becomes.get(b) == a), None)
