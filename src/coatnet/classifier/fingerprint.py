"""The fingerprint: the logits of a fixed image, stored with the weights and computed anew when they are loaded."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.data.preprocess import Preprocess
from coatnet.errors import ModelFileError, QualityError
from coatnet.runtime.engines import Engine

TOLERANCE = 0.02
"""Largest difference of a logit from the stored one, in standard deviations of the stored logits."""


def fingerprint_image() -> NDArray[np.uint8]:
    """The fixed image: (240, 320, 3) uint8, curved waves that get finer to the lower right.

    Integers only, so it is the same everywhere. Channel c is ((c + 1) x^2 + 3xy + (3 - c) y^2) / 97 mod 256: the fine
    waves make the resizing filter count, the shape the crop, and three different channels mean, std and their order.
    """
    y, x = np.mgrid[0:240, 0:320].astype(np.int64)
    channels = [((c + 1) * x * x + 3 * x * y + (3 - c) * y * y) // 97 % 256 for c in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def fingerprint(engine: Engine, preprocess: Preprocess) -> tuple[float, ...]:
    """The logits of the fixed image, taken through the whole path of any image.

    Raises:
        QualityError: they are not finite.
    """
    logits = engine.logits(preprocess(fingerprint_image())[None])[0]
    if not np.isfinite(logits).all():
        raise QualityError(
            "The network's logits are not finite.", "The weights have diverged; take an earlier checkpoint."
        )
    return tuple(float(logit) for logit in logits)


def check_fingerprint(folder: Path, stored: tuple[float, ...], found: tuple[float, ...]) -> None:
    """Compare the logits stored in `folder` with those found now.

    Raises:
        ModelFileError: one of them differs by more than TOLERANCE.
    """
    if len(stored) != len(found):
        raise ModelFileError(f"{folder / 'fingerprint.json'} holds {len(stored)} logits, the model gives {len(found)}.")
    expected, got = np.array(stored), np.array(found)
    scale = np.append(expected, 0.0).std()  # with 0, so that a single class has a scale too
    worst = np.abs(got - expected).max() / max(scale, 1e-6)
    if not worst <= TOLERANCE:
        raise ModelFileError(
            f"{folder}: the logits of the fixed image differ by {worst:.2g} standard deviations from "
            f"the stored ones, {TOLERANCE} are allowed: preprocessing or weights are not those that were saved.",
            "Take the folder's files from one and the same save.",
        )
