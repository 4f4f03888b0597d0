"""The split that we choose ourselves when the data brings none: seeded, stratified, recorded. No torch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from coatnet.data.samples import Source, some
from coatnet.errors import DataError, ModelFileError
from coatnet.frozen import Frozen, explain

SPLIT_PARTS = 3
"""Train, validation and test: what is split needs an image of each class for each."""


class SplitRecord(Frozen):
    """Which samples were taken for validation and test, to be stored with the run and applied again."""

    split_seed: int
    """The seed of the choice."""
    val_fraction: float
    """Share of each class asked for as validation."""
    test_fraction: float
    """Share of each class asked for as test; 0 where the data brings a test split or none is wanted."""
    num_samples: int
    """How many samples there were to choose from."""
    samples_sha256: str
    """SHA-256 of their sorted names, each followed by a line feed."""
    val: tuple[str, ...]
    """Names of the validation samples, sorted."""
    test: tuple[str, ...]
    """Names of the test samples, sorted."""


def choose_split(source: Source, split_seed: int, val_fraction: float, test_fraction: float) -> SplitRecord:
    """Choose validation and test samples class by class.

    Within a class the samples are ordered by SHA-256 of (seed, class, name), and the first ones are taken: the order
    of the files plays no part, and a sample added later moves few others. Every class keeps at least one sample in
    each part.

    Raises:
        DataError: for a class with fewer samples than parts.
    """
    num_parts = SPLIT_PARTS - (test_fraction == 0)
    val: list[str] = []
    test: list[str] = []
    too_small: list[str] = []
    for label, class_name in enumerate(source.class_names):
        members = [source.names[index] for index in np.flatnonzero(source.labels == label).tolist()]
        if not members:
            continue
        if len(members) < num_parts:
            too_small.append(class_name)
            continue
        members.sort(key=lambda name: _rank(split_seed, class_name, name))
        num_test = _share(len(members), test_fraction, len(members) - 2)
        num_val = _share(len(members), val_fraction, len(members) - 1 - num_test)
        test += members[:num_test]
        val += members[num_test : num_test + num_val]
    if too_small:
        parts = "train, val and test" if num_parts == SPLIT_PARTS else "train and val"
        raise DataError(
            f"Too few images to split: {some(too_small)} {'has' if len(too_small) == 1 else 'have'} fewer than "
            f"{num_parts} images, one each for {parts}.",
            hint="Add images to these classes, remove them, or bring your own split (folders train/, val/, test/).",
        )
    return SplitRecord(
        split_seed=split_seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        num_samples=len(source),
        samples_sha256=names_sha256(source.names),
        val=tuple(sorted(val)),
        test=tuple(sorted(test)),
    )


def apply_split(source: Source, record: SplitRecord) -> tuple[Source, Source, Source | None, tuple[str, ...]]:
    """Train, validation, test (None if the record has none) and notes for the user.

    Raises:
        DataError: if samples of the record are no longer in the data.
    """
    index_of = {name: index for index, name in enumerate(source.names)}
    missing = [name for name in (*record.val, *record.test) if name not in index_of]
    if missing:
        raise DataError(
            f"The data no longer matches the stored split: {some(missing)} of {len(record.val) + len(record.test)} "
            "validation and test samples are missing.",
            hint="Bring the files back, or start a new run so that a new split is chosen.",
        )
    notes: tuple[str, ...] = ()
    if names_sha256(source.names) != record.samples_sha256:
        notes = (
            f"The images changed since the split was chosen ({record.num_samples} then, {len(source)} now): "
            "validation and test are the same, new images are for training.",
        )
    val, test = ([index_of[name] for name in names] for names in (record.val, record.test))
    held_out = set(val) | set(test)
    train: NDArray[np.int64] = np.array([index for index in range(len(source)) if index not in held_out], np.int64)
    return source.subset(train), source.subset(sorted(val)), source.subset(sorted(test)) if test else None, notes


def take_share(source: Source, split_seed: int, fraction: float) -> Source:
    """A share of each class, at least one sample, in the order of the source; smaller shares are parts of larger ones.

    Args:
        source: the samples.
        split_seed: within a class samples are ordered as in `choose_split`, and the first ones are taken.
        fraction: of each class, above 0.
    """
    taken: list[int] = []
    for label, class_name in enumerate(source.class_names):
        members = np.flatnonzero(source.labels == label).tolist()
        members.sort(key=lambda index: _rank(split_seed, class_name, source.names[index]))
        taken += members[: _share(len(members), fraction, len(members))]
    return source.subset(sorted(taken))


def names_sha256(names: Sequence[str]) -> str:
    """SHA-256 of the sorted names, each followed by a line feed."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()


def _rank(split_seed: int, class_name: str, name: str) -> bytes:
    return hashlib.sha256(f"{split_seed}/{class_name}/{name}".encode()).digest()


def _share(num_members: int, fraction: float, most: int) -> int:
    return min(max(1, round(num_members * fraction)), most) if fraction > 0 else 0


def stored_split(folder: Path) -> SplitRecord | None:
    """The split that a run chose, from its split.json; None where there is none.

    Raises:
        ModelFileError: the file is damaged.
    """
    path = folder / "split.json"
    if not path.is_file():
        return None
    try:
        return SplitRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelFileError(f"{path}: {explain(error)}.", "Take the file as coatnet wrote it.") from error
