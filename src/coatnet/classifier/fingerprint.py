"""The fingerprint: what a fixed image becomes on its way through, stored with the weights and computed anew on loading.

Two things are kept, because one is not enough. The input of the network shows every change of the preprocessing: the
logits do not, a trained network may give nearly the same ones for two ways to resize. The logits show a change of the
weights or of the code that runs them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier.folder import FingerprintRecord
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ModelFileError, QualityError
from coatnet.runtime.engines import Engine

GRID = 8
"""The input is kept at 8 x 8 places of each channel."""
INPUT_TOLERANCE = 0.25
"""Mean difference of the input in grey levels of 255. Pillow resizes with integers: builds differ by one level in few
pixels. Measured from 32 to 384 px: 0.9 levels or more for Lanczos in place of bicubic, 0.4 for a mean 0.005 off."""
LOGIT_TOLERANCE = 0.02
"""Largest difference of a logit in standard deviations of the stored logits. Measured with coatnet_0 at 224: 1e-6 for
other threads, memory orders and kernels; 3e-3 with TF32's rounding, as GPUs do; 4 for other weights."""


def fingerprint_image() -> NDArray[np.uint8]:
    """The fixed image: (240, 320, 3) uint8, curved waves that get finer to the lower right.

    Integers only, so it is the same everywhere. Channel c is ((c + 1) x^2 + 3xy + (3 - c) y^2) / 97 mod 256: the fine
    waves make the resizing filter count, the shape the crop, and three different channels mean, std and their order.
    """
    y, x = np.mgrid[0:240, 0:320].astype(np.int64)
    channels = [((c + 1) * x * x + 3 * x * y + (3 - c) * y * y) // 97 % 256 for c in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def take_fingerprint(sha256: str, engine: Engine, preprocess: Preprocess) -> FingerprintRecord:
    """The fingerprint of an engine and its preprocessing; `sha256` is that of the weights' file.

    Raises:
        QualityError: the logits are not finite.
    """
    logits = engine.logits(preprocess(fingerprint_image())[None])[0]
    if not np.isfinite(logits).all():
        raise QualityError("The network's logits are not finite.", "The weights have diverged.")
    shown = shown_input(preprocess).ravel()
    return FingerprintRecord(sha256=sha256, input=tuple(shown.tolist()), logits=tuple(logits.tolist()))


def shown_input(preprocess: Preprocess) -> NDArray[np.float32]:
    """What the fixed image becomes before it enters the network, at 8 x 8 places: (3, 64)."""
    image = preprocess(fingerprint_image())
    rows, columns = (np.arange(GRID) * (side - 1) // (GRID - 1) for side in image.shape[1:])
    places: NDArray[np.float32] = image[:, rows][:, :, columns].reshape(3, -1)
    return places


def check_fingerprint(
    folder: Path,
    stored: FingerprintRecord,
    found: FingerprintRecord,
    preprocess: Preprocess,
    logit_tolerance: float = LOGIT_TOLERANCE,
) -> None:
    """Compare what is stored in `folder` with what was found now.

    Raises:
        ModelFileError: the input or the logits differ by more than their tolerance.
    """
    path = folder / "fingerprint.json"
    for name, expected, got in (("input", stored.input, found.input), ("logits", stored.logits, found.logits)):
        if len(expected) != len(got):
            raise ModelFileError(f"{path}: {name}: {len(expected)} numbers, expected {len(got)}.")
    levels = 255 * np.array(preprocess.std)[:, None]
    shift = np.mean(np.abs(levels * np.reshape(np.subtract(found.input, stored.input), (3, -1))))
    if not shift <= INPUT_TOLERANCE:
        raise ModelFileError(
            f"{folder / 'preprocess.json'} is not what was saved with these weights: the fixed image becomes another "
            f"input, by {shift:.2g} grey levels on average; at most {INPUT_TOLERANCE} are allowed.",
            "Take all files of the folder from one save.",
        )
    scale = np.std(stored.logits) if len(stored.logits) > 1 else abs(stored.logits[0])
    worst = np.abs(np.subtract(found.logits, stored.logits)).max() / max(scale, 1e-6)
    if not worst <= logit_tolerance:
        raise ModelFileError(
            f"{folder}: the weights do not give the logits that were saved with them: the fixed image's differ by "
            f"{worst:.2g} standard deviations; at most {logit_tolerance} are allowed.",
            "Take all files of the folder from one save, and use the coatnet that wrote it.",
        )
