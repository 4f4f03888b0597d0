"""Randomness as a function of a seed and a position: cheap, portable, without state to store."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): 64 bits to 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def position_seed(seed: int, position: int) -> int:
    """A 64-bit seed for what happens at `position` under `seed`."""
    return mix(mix(seed & _MASK) ^ (position & _MASK))


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The order (num_samples,) in which `epoch` visits the samples; the two last asked for are kept."""
    generator = np.random.Generator(np.random.Philox(key=position_seed(seed, epoch)))
    return generator.permutation(num_samples)


class Draws:
    """A stream of numbers from one seed. Making one costs 0.2 microseconds, a NumPy generator ten."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def integer(self, below: int) -> int:
        """0 <= integer < below; for `below` far under 2**64, where the modulo's bias is nothing."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return mix(self._state) % below

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """low <= number < high, in steps of 2**-53 of the range."""
        return low + (high - low) * (self.integer(1 << 53) / (1 << 53))
