"""How an engine whose batches have few fixed sizes takes a batch of any size."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BATCH_SIZE = 8
"""Images at once; above it the images per second grow no more (benchmarks/inference_speed.md)."""
PADDED = 4
"""A rest of more images than this is filled up to a whole batch, which takes less time than one after the other."""


def in_batches(
    images: NDArray[np.float32], run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Logits of any number of images from a function that is only given 8 images, or one.

    Args:
        images: (B, 3, H, W) float32.
        run: logits of (8, 3, H, W) or (1, 3, H, W). For no image at all it is asked for the width of its answer.

    Returns:
        (B, classes) float32.
    """
    if not len(images):
        return run(np.zeros((1, *images.shape[1:]), np.float32))[:0]
    whole = len(images) - len(images) % BATCH_SIZE
    found = [run(images[start : start + BATCH_SIZE]) for start in range(0, whole, BATCH_SIZE)]
    rest = images[whole:]
    if len(rest) > PADDED:
        filled = np.concatenate([rest, np.zeros((BATCH_SIZE - len(rest), *rest.shape[1:]), np.float32)])
        found.append(run(filled)[: len(rest)])
    else:
        found += [run(rest[index : index + 1]) for index in range(len(rest))]
    return np.concatenate(found)
