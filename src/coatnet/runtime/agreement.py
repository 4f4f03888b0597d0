"""How far two engines' logits for the same images lie apart. NumPy only."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOAT32_LIMIT = 1e-4
"""Largest difference of a logit between two engines in float32, times the largest logit if that is above 1. Measured
between torch, ONNX Runtime and OpenVINO: 1e-6."""
BFLOAT16_LIMIT = 0.05
"""Largest relative error of the logits in bfloat16. Measured in benchmarks/inference_speed.md: 0.01."""


class Agreement(NamedTuple):
    """A comparison of logits with those of a reference."""

    images: int
    largest_difference: float
    """Of any logit."""
    scale: float
    """The reference's largest logit, or 1 if that is smaller."""
    relative_error: float
    """||difference|| / ||reference|| of all logits, less each image's mean, which no probability depends on."""
    same_top1: float
    """Share of the images whose most probable class is the same."""

    @property
    def is_exact(self) -> bool:
        """Whether this is what float32 gives on another engine."""
        return self.largest_difference <= FLOAT32_LIMIT * self.scale and self.same_top1 == 1


def compare(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """How far `found` lies from `reference`, both (images, classes)."""
    expected, got = _centred(reference), _centred(found)
    norm = float(np.linalg.norm(expected))
    difference = np.abs(found.astype(np.float64) - reference)
    return Agreement(
        images=len(reference),
        largest_difference=float(difference.max(initial=0)),
        scale=max(1.0, float(np.abs(reference).max(initial=0))),
        relative_error=float(np.linalg.norm(got - expected)) / max(norm, 1e-12),
        same_top1=float(np.mean(reference.argmax(1) == found.argmax(1))),
    )


def _centred(logits: NDArray[np.float32]) -> NDArray[Any]:
    wide = logits.astype(np.float64)
    centred: NDArray[Any] = wide - wide.mean(axis=1, keepdims=True) if wide.shape[1] > 1 else wide
    return centred
