"""Grey levels of more than 8 bits as bytes: which level is black and which is white. No torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_WHITES = {"f": (1, 255, 4095, 65535), "i": (255, 4095, 65535)}
"""Whites that levels may have been written for: the unit interval, 8 bits, 12 bits of cameras and scanners, 16 bits."""


NARROW = 32
"""Fewer levels than these of 256, an eighth, are little: such images look black, white or blank."""


def span(image: NDArray[np.uint8]) -> int:
    """How many levels lie between the darkest and the brightest of an image, 0 to 255."""
    return int(image.max()) - int(image.min())


class Levels(NamedTuple):
    """The ends of the grey scale of an image."""

    black: float
    white: float

    def to_bytes(self, grey: NDArray[np.generic]) -> NDArray[np.uint8]:
        """(H, W) levels as (H, W) uint8, rounded."""
        scaled = (grey.astype(np.float64) - self.black) * (255 / (self.white - self.black))
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def find_levels(low: float, high: float, told: int | None, whole: bool) -> Levels:
    """Which levels are black and white.

    Args:
        low: the lowest level of the image.
        high: the highest.
        told: white as the file tells it; not believed if levels lie above it.
        whole: whether levels are whole numbers.

    Returns:
        0 and the white told; else 0 and the lowest white of `_WHITES` that is not exceeded; else the range found.
    """
    if low >= 0:
        if told is not None and high <= told:
            return Levels(0, told)
        for white in _WHITES["i" if whole else "f"]:
            if high <= white:
                return Levels(0, white)
    black = min(low, 0.0)
    return Levels(black, high if high > black else black + 1)
