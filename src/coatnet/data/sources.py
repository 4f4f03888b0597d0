"""Where the images come from: DataConfig, and the splits that training, validation and test see. No torch."""

import difflib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from coatnet.data.class_names import similar_names, valueless_names
from coatnet.data.csv_tables import TableOptions, has_labels, metadata_files, read_csv, read_csv_files
from coatnet.data.folders import LAYOUTS, Found, read_folders
from coatnet.data.hub_sets import is_hub_set, read_hub_set
from coatnet.data.imagenet import find_challenge, read_challenge
from coatnet.data.named import NAMED_SETS, read_named
from coatnet.data.samples import BytesSource, JoinedSource, Source, printable, some
from coatnet.data.shards import is_shards, read_shards
from coatnet.data.splitting import SplitRecord, apply_split, choose_split, take_share
from coatnet.data.storage import is_address
from coatnet.data.tables import parquet_files, read_parquet
from coatnet.data.text_tables import TEXT_SUFFIXES
from coatnet.errors import DataError
from coatnet.frozen import Frozen

__all__ = [
    "DIGITS_TEST_FRACTION",
    "DataConfig",
    "Found",
    "Source",
    "SplitRecord",
    "Splits",
    "find_parts",
    "open_data",
    "open_unsplit",
    "stored_path",
]

# The digits come without a split; a fifth as test gives about 360 images, enough for a score to half a percent.
DIGITS_TEST_FRACTION = 0.2


class DataConfig(Frozen):
    """Which images, and how they are split and read."""

    path: str
    """Folder of class folders, folder or file of Parquet, CSV file, folder or address (s3://bucket/prefix) of tar
    shards, ImageNet's own layout, the name digits (8x8 digits of scikit-learn; a folder of that name is ./digits), a
    name of torchvision such as cifar10, or hf: and a name of the Hugging Face hub; the last two are downloaded once."""
    image_column: str = "image"
    """Column of a Parquet or CSV file that holds the images or their paths; where it is not there, other usual
    names, such as path and filename, are looked for, and said."""
    label_column: str = "label"
    """Column of a Parquet or CSV file that holds the labels; where it is not there, other usual names are looked for,
    and said."""
    image_root: str | None = None
    """Folder that the paths of a CSV file are relative to, itself relative to the file; by default that of the file."""
    image_suffix: str | None = None
    """What the paths of a CSV file lack at the end, such as .jpg where it holds names only; by default it is found."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of each class that becomes validation where the data has no validation split."""
    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of each class that becomes test where the data has no split at all; 0 for none. The name digits always
    takes 0.2."""
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each class's training images that is used, at least one; with the same split_seed a smaller share is a
    part of a larger one. For studies of what more images bring."""
    split_seed: int = 0
    """Seed of the splits and shares chosen here; it is not the seed of training, so that runs can be compared."""
    max_bad: float = Field(default=0.01, ge=0, le=1)
    """Share of training images that may be unreadable before training stops."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that prepare training images; the default is sized to the machine, 0 is none."""

    @model_validator(mode="after")
    def _leaves_some_for_training(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave nothing for training; "
                "their sum must be below 1"
            )
        return self


@dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
        train, val, test: sources with the same class names; test is None where there is none.
        chosen: which samples we took for val and test ourselves; None where the data brought both.
        notes: lines to print for the user.
    """

    train: Source
    val: Source
    test: Source | None
    chosen: SplitRecord | None
    notes: tuple[str, ...] = ()

    @property
    def final(self) -> tuple[Source, Literal["test", "val"]]:
        """What the score at the end of a run is taken on, and its name: test, else val."""
        return (self.val, "val") if self.test is None else (self.test, "test")


def open_data(
    config: DataConfig, record: SplitRecord | None = None, class_names: tuple[str, ...] | None = None
) -> Splits:
    """Find the images and settle the splits. User data is only read.

    train, val and test given: as given. train and test given: val is a part of train. train and val given: no test.
    Nothing given: val and test are parts of the whole. Of train only the share that is asked for is kept.

    Args:
        config: where the data is.
        record: the split of an earlier run, applied exactly; images that are new since then become training images.
        class_names: those that the data must have; labels are then positions in them, in whatever order they are found.

    Raises:
        DataError: one line that says what was found and what was expected.
    """
    found = find_parts(config)
    if class_names is not None:
        found = replace(found, parts={name: same_classes(part, class_names) for name, part in found.parts.items()})
    splits = _split(config, record, found)
    if config.train_fraction == 1:
        return splits
    train = take_share(splits.train, config.split_seed, config.train_fraction)
    note = f"{len(train)} of {len(splits.train)} training images are used."
    return replace(splits, train=train, notes=(*splits.notes, note))


def same_classes(source: Source, class_names: Sequence[str]) -> Source:
    """The same samples, with labels that are positions in `class_names`.

    Raises:
        DataError: the source has other classes; it names those that came and went.
    """
    if source.class_names == tuple(class_names):
        return source
    came, went = set(source.class_names) - set(class_names), set(class_names) - set(source.class_names)
    told = [f"{some(sorted(names), 9)} {what}" for names, what in ((went, "went"), (came, "came")) if names]
    if told:
        raise DataError(
            f"The classes of the data changed: {', '.join(told)}; the run has {len(class_names)} classes.",
            hint="Bring its classes back to go on, or start a new run with these.",
        )
    return source.relabelled(class_names)


def _split(config: DataConfig, record: SplitRecord | None, found: Found) -> Splits:
    """All that there is, split."""
    parts = dict(found.parts)
    pool = parts.pop("all", None) or parts.get("train")
    where = printable(config.path)
    if pool is None or not len(pool) or ("all" in found.parts and parts):
        has = some(list(found.parts), 9)
        raise DataError(f"No train split in {where}: found {has}.", hint="Name one split train, or give no splits.")
    num_classes = len(np.unique(pool.labels))
    if num_classes < 2:
        only = pool.class_names[int(pool.labels[0])]
        raise DataError(f"Only one class in {where}: {some([only])}; expected at least 2.", hint=_other_reading(config))
    notes = list(found.notes)
    unused = [name for label, name in enumerate(pool.class_names) if not (pool.labels == label).any()]
    if unused:
        notes.append(f"No training images for {some(unused)}.")
    notes += [f"Classes {some(names, 9)} have nearly the same name." for names in similar_names(pool.class_names)]
    if valueless := valueless_names(pool.class_names):
        notes.append(f"Class {some(valueless, 9)} may stand for a missing label; here it is a class.")
    val, test = parts.get("val"), parts.get("test")
    if val is not None:
        if record is not None:
            raise DataError(
                f"The stored split was chosen for data without a val split, but {where} now has one.",
                hint="Remove the val split, or start a new run.",
            )
        return Splits(pool, val, test, None, tuple(notes))
    if record is None:
        is_whole = "all" in found.parts or set(found.parts) == {"train"}
        test_fraction = DIGITS_TEST_FRACTION if config.path == "digits" else config.test_fraction
        record = choose_split(pool, config.split_seed, config.val_fraction, test_fraction if is_whole else 0.0)
    elif record.test and test is not None:
        raise DataError(
            f"The stored split was chosen for data without a test split, but {where} now has one.",
            hint="Remove the test split, or start a new run.",
        )
    train, val, chosen_test, more = apply_split(pool, record)
    return Splits(train, val, test if test is not None else chosen_test, record, tuple(notes) + more)


def open_unsplit(path: str, config: DataConfig | None = None) -> Source:
    """Every sample of a folder, a table or the digits, whatever splits it has, to evaluate on all of it.

    Args:
        path: as `DataConfig.path`.
        config: names of the columns, if they are not the usual ones.

    Returns:
        A source with the class names of this data; `relabelled` brings them to a model's.
    """
    found = find_parts((config or DataConfig(path=path)).replace(path=path))
    sources = [found.parts[part] for part in ("all", "train", "val", "test") if part in found.parts]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def find_parts(config: DataConfig) -> Found:
    """What the data itself brings, before any split is chosen: sources by "train", "val" and "test", or one by "all".

    Raises:
        DataError: as `open_data`.
    """
    if config.path == "digits":
        return Found({"all": _digits()})
    if is_hub_set(config.path):
        return read_hub_set(config.path, config.image_column, config.label_column)
    if is_address(config.path):
        return read_shards(config.path)
    path = Path(os.path.expanduser(config.path))
    options = TableOptions(config.image_column, config.label_column, config.image_root, config.image_suffix)
    if not path.exists():
        if config.path in NAMED_SETS:
            return read_named(config.path)
        raise _not_there(path)
    if path.is_dir():
        if is_shards(path):
            return read_shards(os.fspath(path))
        challenge = find_challenge(path)
        if challenge:
            return read_challenge(challenge)
        files = parquet_files(path)
        if files:
            return read_parquet(files, config.image_column, config.label_column)
        tables = metadata_files(path)
        if tables and all(has_labels(table, options) for table in tables):
            return read_csv_files(tables, options)
        return read_folders(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet([path], config.image_column, config.label_column)
    if suffix in TEXT_SUFFIXES:
        return read_csv(path, options)
    if suffix == ".tar":
        return read_shards(os.fspath(path))
    raise DataError(f"{printable(str(path))} is a file that ends in neither .parquet nor .csv nor .tar.", hint=LAYOUTS)


def stored_path(path: str) -> str:
    """The path of the data as a run stores it: absolute, so that the run goes on from any folder; names and addresses
    stay as they are."""
    is_name = path == "digits" or (path in NAMED_SETS and not Path(path).exists())
    return path if is_name or is_hub_set(path) or is_address(path) else str(Path(path).expanduser().absolute())


def _other_reading(config: DataConfig) -> str:
    """What else the user may have meant: the tables that lie in a folder, else the layouts that there are."""
    folder = Path(os.path.expanduser(config.path))
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    tables = [name for name in names if name.lower().endswith(TEXT_SUFFIXES)]
    return f"If the labels are in {some(tables)}, give that file instead of the folder." if tables else LAYOUTS


def _not_there(path: Path) -> DataError:
    """The error for a path that does not exist, with the names in the nearest folder that does that look like it."""
    if path.is_symlink():
        return DataError(
            f"{printable(str(path))} is a link that leads nowhere.", hint="Give the folder or file itself."
        )
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    try:
        beside = [printable(name) for name in os.listdir(missing.parent)]
    except OSError:
        beside = []
    close = difflib.get_close_matches(missing.name, [*beside, "digits", *NAMED_SETS], n=3)
    hint = f"Did you mean {some(close)}? " if close else ""
    return DataError(
        f"{printable(str(path))} does not exist.", hint=f"{hint}The name digits works without any files of your own."
    )


def _digits() -> Source:
    """The 1797 handwritten digits that come with scikit-learn: 8x8 grey, as PNG files so that they pass the gate."""
    from sklearn.datasets import load_digits

    data = load_digits()
    levels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # they are given as 0..16
    names = [f"digits/{index:04d}" for index in range(len(levels))]
    return BytesSource([str(digit) for digit in range(10)], data.target.astype(np.int64), names, _as_png(levels))


def _as_png(images: np.ndarray) -> list[bytes]:
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files
