"""The data that a run began with, and what of it is otherwise when the run goes on. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, ValidationError

from coatnet.data.images import ImageError
from coatnet.data.samples import Source, some
from coatnet.data.sources import Splits
from coatnet.errors import DataError
from coatnet.frozen import Frozen
from coatnet.ranks import gathered

EXAMPLES = 64
"""Images of each part whose bytes are compared: read in well under a second. If one image in 20 is another, all 64 miss
it once in 27 times."""


class PartRecord(Frozen):
    """Training, validation or test images."""

    count: int
    names_sha256: str
    """Of the names in their order, each followed by a line feed."""
    labels_sha256: str
    """Of the labels as little-endian 64-bit integers."""
    examples: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the bytes of some images, by name."""

    @classmethod
    def of(cls, source: Source, *, with_examples: bool) -> Self:
        """What is to be known of some images later."""
        names = hashlib.sha256()
        for name in source.names:
            names.update(f"{name}\n".encode())
        positions = np.unique(np.linspace(0, len(source) - 1, min(EXAMPLES, len(source))).astype(int))
        digests = {source.names[index]: _digest(source, index) for index in positions.tolist() if with_examples}
        return cls(
            count=len(source),
            names_sha256=names.hexdigest(),
            labels_sha256=hashlib.sha256(source.labels.astype("<i8").tobytes()).hexdigest(),
            examples={name: digest for name, digest in digests.items() if digest},
        )


class DataRecord(Frozen):
    """data.json."""

    parts: dict[str, PartRecord]
    """By train, val and test, those that there are."""

    @classmethod
    def of(cls, splits: Splits, *, with_examples: bool = True) -> Self:
        """What is to be known of the data later."""
        parts = {name: source for name, source in _parts(splits).items() if source is not None}
        # Test images are not read before the end.
        looked_at = {"train", "val"} if with_examples else set()
        return cls(parts={name: PartRecord.of(one, with_examples=name in looked_at) for name, one in parts.items()})


def changes(path: Path, splits: Splits) -> list[str]:
    """What is otherwise than when a run began, a line each.

    Args:
        path: the run's data.json; a run of an older coatnet has none.
        splits: the data as it is now.
    """
    if not path.is_file():
        return []
    try:
        before = DataRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        return [f"{path} is damaged: whether the images are those that the run began with cannot be told"]
    now = DataRecord.of(splits, with_examples=False)
    told = []
    for name, source in _parts(splits).items():
        old, new = before.parts.get(name), now.parts.get(name)
        if source is None or old is None or new is None:
            if old != new:
                told.append(f"the run began {'without' if old is None else 'with'} a {name} split")
            continue
        told += _changes(name, source, old, new)
    return told


def check_same_everywhere(splits: Splits) -> None:
    """See that each process of a run sees the same data.

    Raises:
        DataError: one sees other images, or the same with other labels.
    """
    seen = gathered(DataRecord.of(splits, with_examples=False))
    other = next((number for number, one in enumerate(seen) if one != seen[0]), None)
    if other is not None:
        raise DataError(
            f"process {other} of this run sees other images or labels than process 0",
            "give each machine the same data at the same path",
        )


def _changes(name: str, source: Source, old: PartRecord, new: PartRecord) -> list[str]:
    told = []
    if old.names_sha256 != new.names_sha256:
        told.append(f"{name}: other images than when the run began, {old.count} then, {new.count} now")
    elif old.labels_sha256 != new.labels_sha256:
        told.append(f"{name}: images have other labels than when the run began")
    at = {one: index for index, one in enumerate(source.names) if one in old.examples}
    changed = [one for one, index in at.items() if _digest(source, index) != old.examples[one]]
    if changed:
        told.append(f"{name}: {len(changed)} of {len(at)} images looked at have changed: {some(changed)}")
    return told


def _digest(source: Source, index: int) -> str:
    """SHA-256 of the bytes of an image; nothing if they cannot be read."""
    try:
        return hashlib.sha256(source.read(index)).hexdigest()
    except ImageError:
        return ""


def _parts(splits: Splits) -> dict[str, Source | None]:
    return {"train": splits.train, "val": splits.val, "test": splits.test}
