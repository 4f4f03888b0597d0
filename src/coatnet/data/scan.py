"""What is in a data set and what is wrong with it, before anything is trained on it. No torch."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coatnet.data.class_names import similar_names, valueless_names
from coatnet.data.digests import take_digests
from coatnet.data.duplicates import alike, same
from coatnet.data.levels import NARROW
from coatnet.data.listing import BROKEN_LINKS, OUTSIDE
from coatnet.data.samples import JoinedSource, some
from coatnet.data.sources import Found
from coatnet.data.splitting import SPLIT_PARTS
from coatnet.frozen import Frozen

NUM_EXTREMES = 8
"""How many of the smallest and of the largest images are named."""
NUM_SIZES = 20
"""How many of the most common sizes are listed."""
ASPECTS = (0.0, 0.5, 0.75, 0.95, 1.05, 4 / 3, 2.0, float("inf"))
"""Bounds of the histogram of width over height: beyond 1:2, upright, nearly square, wide, beyond 2:1."""

# Pictures in formats that are not opened; and images that have no label, for they lie in no class folder.
_PERHAPS_IMAGES = {
    *(OUTSIDE, BROKEN_LINKS, ".jp2", ".jxl", ".svg", ".psd", ".eps", ".ico", ".tga", ".pcx", ".exr", ".hdr", ".dcm"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".npy", ".zip", ".tar", ".7z", ".rar"),
}

Kind = Literal["file", "pixels", "alike"]


class Sample(Frozen):
    """One image of the data."""

    name: str
    """Unique within its split."""
    split: str
    """train, val or test; all where the data brings no split."""
    label: str
    """Name of its class."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


class Unreadable(Frozen):
    """One image that cannot be read."""

    name: str
    split: str
    label: str
    code: str
    """Of `coatnet.data.images.CODES`."""
    detail: str


class Duplicates(Frozen):
    """Two or more images that show the same."""

    kind: Kind
    """file: the same bytes; pixels: other bytes, the same pixels; alike: the same picture, as near as a hash can tell,
    each looking like at least one of the others."""
    samples: tuple[Sample, ...]

    @property
    def across_splits(self) -> bool:
        """Whether they lie in more than one split."""
        return len({sample.split for sample in self.samples}) > 1

    @property
    def labels_differ(self) -> bool:
        """Whether they have more than one label."""
        return len({sample.label for sample in self.samples}) > 1


class Empty(Frozen):
    """A class without an image in a split."""

    split: str
    label: str


class Size(Frozen):
    """How many images are of one size."""

    width: int
    height: int
    images: int


class Bin(Frozen):
    """A bar of a histogram: images with low <= value < high; no upper bound where high is None."""

    low: float
    high: float | None
    images: int


class Scan(Frozen):
    """What a scan found."""

    data: str
    """The path as it was given."""
    images: int
    """In all splits, the unreadable ones included."""
    counts: dict[str, dict[str, int]]
    """Images by split and class."""
    imbalance: float
    """Images of the largest class over those of the smallest that has any, in train, or all."""
    empty: tuple[Empty, ...]
    similar_labels: tuple[tuple[str, ...], ...]
    """Class names that differ only by case, white space, Unicode form or leading zeros."""
    valueless_labels: tuple[str, ...]
    """Class names that programs write where a value is missing, such as nan."""
    unreadable: tuple[Unreadable, ...]
    duplicates: tuple[Duplicates, ...]
    num_sizes: int
    """How many different sizes there are."""
    sizes: tuple[Size, ...]
    """The most common ones first."""
    shorter_sides: tuple[Bin, ...]
    """Histogram of the shorter side in pixels."""
    aspects: tuple[Bin, ...]
    """Histogram of width over height."""
    smallest: tuple[Sample, ...]
    """By number of pixels, the smallest first; as many as `NUM_EXTREMES`."""
    largest: tuple[Sample, ...]
    narrow: tuple[Sample, ...]
    """Images that use fewer than `levels.NARROW` of 256 levels."""
    left_out: dict[str, int]
    """How many files and folders are not used, by suffix or by another reason."""
    notes: tuple[str, ...]
    """What the reader of the data had to say."""

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each kind of thing that is wrong."""
        return tuple(_problems(self))

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: the fields, what is wrong, and of each group whether it spans splits and labels."""
        groups = [
            {**group.model_dump(), "across_splits": group.across_splits, "labels_differ": group.labels_differ}
            for group in self.duplicates
        ]
        return {**self.model_dump(), "duplicates": groups, "problems": self.problems}


def scan(data: str, found: Found, on_progress: Callable[[int], None] = lambda _: None) -> Scan:
    """Look at every image of a data set, as it is before any split is chosen.

    Args:
        data: what it is called.
        found: what `coatnet.data.sources.find_parts` found.
        on_progress: is told now and then how many more images were read.

    Raises:
        ResourceError: a process that reads images died.
    """
    order = ("all", "train", "val", "test")
    parts = {split: found.parts[split] for split in sorted(found.parts, key=order.index)}
    joined = JoinedSource(list(parts.values()))
    splits = [split for split, part in parts.items() for _ in range(len(part))]
    digests, errors = take_digests(joined, on_progress)

    def sample(index: int) -> Sample:
        label, record = joined.class_names[joined.labels[index]], digests[index]
        size = {"width": int(record["width"]), "height": int(record["height"])}
        return Sample(name=joined.names[index], split=splits[index], label=label, **size)

    readable = np.flatnonzero(digests["height"])
    area = digests["width"][readable].astype(np.int64) * digests["height"][readable]
    by_area = readable[np.argsort(area, kind="stable")].tolist()
    counts = {split: _counts(part.class_names, part.labels) for split, part in parts.items()}
    sizes = Counter(zip(digests["width"][readable].tolist(), digests["height"][readable].tolist(), strict=True))
    return Scan(
        data=data,
        images=len(joined),
        counts=counts,
        imbalance=_imbalance(counts.get("train") or next(iter(counts.values()))),
        empty=_empty(counts, found.empty),
        similar_labels=similar_names([*joined.class_names, *(name for _, name in found.empty)]),
        valueless_labels=valueless_names(joined.class_names),
        unreadable=tuple(
            Unreadable(**sample(index).model_dump(exclude={"width", "height"}), code=error.code, detail=error.detail)
            for index, error in errors.items()
        ),
        duplicates=tuple(
            Duplicates(kind=kind, samples=tuple(map(sample, group))) for kind, group in _groups(digests, readable)
        ),
        num_sizes=len(sizes),
        sizes=tuple(Size(width=w, height=h, images=count) for (w, h), count in sizes.most_common(NUM_SIZES)),
        shorter_sides=_histogram_of_sides(np.minimum(digests["width"], digests["height"])[readable]),
        aspects=_histogram(digests["width"][readable] / digests["height"][readable], ASPECTS),
        smallest=tuple(map(sample, by_area[:NUM_EXTREMES])),
        largest=tuple(map(sample, by_area[::-1][:NUM_EXTREMES])),
        narrow=tuple(map(sample, readable[digests["span"][readable] < NARROW].tolist())),
        left_out=found.left_out,
        notes=found.notes,
    )


def _counts(class_names: Sequence[str], labels: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(class_names, np.bincount(labels, minlength=len(class_names)).tolist(), strict=True))


def _imbalance(counts: Mapping[str, int]) -> float:
    filled = [count for count in counts.values() if count]
    return max(filled) / min(filled)


def _empty(counts: Mapping[str, Mapping[str, int]], folders: Sequence[tuple[str, str]]) -> tuple[Empty, ...]:
    """Classes that are known but have no images, and class folders that hold none."""
    found = [(split, label) for split, classes in counts.items() for label, count in classes.items() if not count]
    return tuple(Empty(split=split, label=label) for split, label in dict.fromkeys([*found, *folders]))


def _groups(digests: NDArray[np.void], readable: NDArray[np.int64]) -> Iterator[tuple[Kind, list[int]]]:
    """Groups of at least two indices, each with what makes all its members one."""
    by_file, by_pixels = same(digests["file"][readable]), same(digests["pixels"][readable])
    pictures, picture_of = np.unique(by_pixels, return_inverse=True)  # each once, whatever its copies
    by_look = pictures[alike(digests["thumbnail"][readable[pictures]])][picture_of]
    order = np.argsort(by_look, kind="stable")
    starts = np.flatnonzero(np.diff(by_look[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if len(members) > 1:
            equal = [(firsts[members] == firsts[members[0]]).all() for firsts in (by_file, by_pixels)]
            kind: Kind = "file" if equal[0] else "pixels" if equal[1] else "alike"
            yield kind, readable[members].tolist()


def _histogram_of_sides(sides: NDArray[np.int32]) -> tuple[Bin, ...]:
    if not len(sides):
        return ()
    low, high = int(np.log2(sides.min())), int(np.log2(sides.max())) + 1
    return _histogram(sides, [2.0**power for power in range(low, high + 1)])


def _histogram(values: NDArray[np.integer[Any] | np.floating[Any]], edges: Sequence[float]) -> tuple[Bin, ...]:
    counts = np.bincount(np.digitize(values, edges) - 1, minlength=len(edges) - 1).tolist()
    highs = [high if np.isfinite(high) else None for high in edges[1:]]
    bins = zip(edges[:-1], highs, counts, strict=True)
    return tuple(Bin(low=low, high=high, images=count) for low, high, count in bins)


def _problems(found: Scan) -> Iterator[str]:
    if found.unreadable:
        codes = Counter(one.code for one in found.unreadable)
        told = ", ".join(f"{count:,} {code}" for code, count in codes.most_common())
        yield f"Images that cannot be read: {told}."
    if found.narrow:
        few = some([one.name for one in found.narrow])
        yield f"Images that use fewer than {NARROW} of 256 levels: {len(found.narrow):,} of {found.images:,}, {few}."
    across = sum(group.across_splits for group in found.duplicates)
    if across:
        yield f"Duplicates across splits: {_groups_of(across)}; what is scored was trained on."
    elif found.duplicates and "all" in found.counts:
        whole = _groups_of(len(found.duplicates))
        yield f"Duplicates in data without a split: {whole}; the split that training chooses may part them."
    differ = sum(group.labels_differ for group in found.duplicates)
    if differ:
        yield f"Duplicates with different labels: {_groups_of(differ)}."
    for names in found.similar_labels:
        yield f"Class names that differ only by case, white space, Unicode form or zeros: {some(names, 9)}."
    if found.valueless_labels:
        yield f"Class names that often stand for a missing label: {some(found.valueless_labels, 9)}."
    lost = {reason: count for reason, count in found.left_out.items() if reason in _PERHAPS_IMAGES}
    if lost:
        told = ", ".join(f"{count:,} {reason}" for reason, count in lost.items())
        yield f"Files that may be images and are left out: {told}."
    known = {label for counts in found.counts.values() for label, count in counts.items() if count}
    if len(known) < 2:
        yield f"Only one class, {some(sorted(known))}: there is nothing to tell apart."
    scarce = [label for label, count in found.counts.get("all", {}).items() if 0 < count < SPLIT_PARTS]
    if scarce:
        yield f"Fewer than {SPLIT_PARTS} images, too few to split into train, validation and test: {some(scarce, 9)}."
    by_split = defaultdict(list)
    for one in found.empty:
        by_split[one.split].append(one.label)
    for split, labels in by_split.items():
        yield f"No images in {split} for {some(labels, 9)}."


def _groups_of(count: int) -> str:
    return "1 group" if count == 1 else f"{count:,} groups"
