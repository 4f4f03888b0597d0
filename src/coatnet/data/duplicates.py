"""Which pictures are the same, or look the same: groups of indices from digests and thumbnails. NumPy only.

Near duplicates are found by a 64-bit difference hash: one bit for each pair of neighbours in a row of a thumbnail of
8 x 9 pixels, set where the right one is brighter. Re-encoding and resizing hardly change it; a crop, a mirror image or
a turn does, and is not found. What the hash proposes is compared by its thumbnails, in colour.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = (8, 9)
"""Rows and columns of a thumbnail: eight times eight neighbours."""
# The five constants below were measured in benchmarks/scan.md.
_DEAD_ZONE = 2.0  # levels of 255 that a neighbour must be brighter: in a flat background noise sets no bit
_MOST_BITS = 4  # by which the hashes of two encodings of one picture differ
_MOST_DIFFERENCE = 0.15  # root mean square between their thumbnails, in standard deviations of the thumbnail
_LEAST_CONTRAST = 4.0  # standard deviation in levels; a flatter picture has nothing to recognise it by
_WINDOW = 64  # neighbours compared where very many hashes agree
# Hashes that differ in at most 4 bits agree in at least 3 of 7 bands, wherever those bits are.
_NUM_BANDS, _NUM_AGREEING = _MOST_BITS + 3, 3
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow converts to grey


def same(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which of N digests are equal.

    Args:
        digests: (N, bytes).

    Returns:
        (N,) for each the index of the first one that equals it.
    """
    rows = np.ascontiguousarray(digests).view(f"V{digests.shape[1]}")[:, 0]
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def alike(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which of N pictures look the same, also by way of others between them. Time grows as N log N.

    Args:
        thumbnails: (N, 8, 9, 3) uint8 RGB.

    Returns:
        (N,) for each the index of the first one of its group, its own where nothing looks like it.
    """
    first = np.arange(len(thumbnails))
    contrast = thumbnails.std(axis=(1, 2, 3), dtype=np.float32)
    indices = np.flatnonzero(contrast >= _LEAST_CONTRAST)
    hashes = difference_hash(thumbnails[indices])
    brightness = thumbnails[indices].mean(axis=(1, 2, 3), dtype=np.float32)
    for left, right in _proposed(hashes, brightness):
        a, b = indices[left], indices[right]
        new = first[a] != first[b]  # what is already in one group needs no comparison
        a, b = a[new], b[new]
        difference = thumbnails[a].astype(np.float32) - thumbnails[b]
        distance = np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))
        close = distance <= _MOST_DIFFERENCE * np.minimum(contrast[a], contrast[b])
        _join(first, a[close], b[close])
    return first


def difference_hash(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(N, 8, 9, 3) uint8 RGB -> (N,) hashes of 64 bits."""
    grey = thumbnails @ _LUMA
    bits = grey[:, :, 1:] - grey[:, :, :-1] > _DEAD_ZONE
    packed: NDArray[np.uint8] = np.packbits(bits.reshape(len(bits), 64), axis=1)
    return packed.view(">u8")[:, 0].astype(np.uint64)


def _proposed(
    hashes: NDArray[np.uint64], brightness: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs whose hashes differ in few bits, at most N at a time.

    Sorted by the bits of some bands, hashes that agree there are neighbours. Where more than `_WINDOW` agree, as in
    drawings on white, they are sorted by brightness and each is compared with the following ones only.
    """
    for mask in _masks():
        key = hashes & mask
        order = np.lexsort((brightness, key))
        key = key[order]
        for distance in range(1, min(_WINDOW, len(order) - 1) + 1):
            agree = np.flatnonzero(key[distance:] == key[:-distance])
            if not len(agree):
                break
            left, right = order[agree], order[agree + distance]
            few = np.bitwise_count(hashes[left] ^ hashes[right]) <= _MOST_BITS
            yield left[few], right[few]


def _masks() -> Iterator[np.uint64]:
    """Each choice of 3 of the 7 bands."""
    bands = [sum(1 << bit for bit in range(band, 64, _NUM_BANDS)) for band in range(_NUM_BANDS)]
    for chosen in combinations(bands, _NUM_AGREEING):
        yield np.uint64(sum(chosen))


def _join(first: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Make one group of the groups of each pair; `first` is changed."""
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        low, high = sorted((_root(first, a), _root(first, b)))
        first[high] = low
    while len(left) and not np.array_equal(shorter := first[first], first):
        first[:] = shorter


def _root(first: NDArray[np.int64], index: int) -> int:
    while first[index] != index:
        index = int(first[index])
    return index
