"""Class folders: `root/class/*` and `root/{train,val,test}/class/*`. No torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from coatnet.data.listing import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from coatnet.data.listing import list_classes, subfolders
from coatnet.data.samples import FileSource, Source, printable, some
from coatnet.errors import DataError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUTS = (
    "Understood are root/class/image.jpg; root/train/class/image.jpg with val/ and test/ beside; Parquet files "
    "train.parquet, val.parquet, test.parquet; a .csv file with the columns path,label; tar shards; the name digits."
)


@dataclass(frozen=True)
class Found:
    """What a reader found.

    Attributes:
        parts: sources by "train", "val" and "test", or one by "all"; all with the same class names.
        notes: one line each for what the user should know.
        empty: split and name of class folders that hold no images; their lines are among the notes.
    """

    parts: dict[str, Source]
    notes: tuple[str, ...] = ()
    empty: tuple[tuple[str, str], ...] = ()


def read_folders(root: Path) -> Found:
    """Find the images of a folder of class folders.

    Raises:
        DataError: no images, only one of the splits needed, or a class that train does not know.
    """
    folders = subfolders(root)
    split_folders = [name for name in folders if name.lower() in SPLIT_NAMES and subfolders(root / name)]
    if any(name.lower() == "train" for name in split_folders) or (split_folders and split_folders == folders):
        return _read_splits(root, split_folders, [name for name in folders if name not in split_folders])
    classes, empty, notes = scan_classes(root)
    class_names = sorted(classes)
    if not class_names:
        lying = sum(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root))
        beside = (
            f"{lying} images lie in it without a class folder" if lying else "it holds no class folders with images"
        )
        raise DataError(f"No labelled images in {printable(str(root))}: {beside}.", hint=LAYOUTS)
    whole = _source(root, "", classes, class_names)
    return Found({"all": whole}, tuple(notes), tuple(("all", name) for name in empty))


def _read_splits(root: Path, split_folders: list[str], others: list[str]) -> Found:
    notes = [f"Folder '{printable(name)}' beside the splits is not used." for name in others]
    scanned: dict[str, dict[str, list[str]]] = {}
    folder_of: dict[str, str] = {}
    empty: list[tuple[str, str]] = []
    for name in split_folders:
        part = SPLIT_NAMES[name.lower()]
        if part in scanned:
            raise DataError(
                f"Two folders for the split '{part}' in {printable(str(root))}: {some(split_folders, 9)}.",
                hint="Keep one of train, one of val/valid/validation, one of test.",
            )
        folder_of[part] = name
        scanned[part], without, more = scan_classes(root / name)
        empty += [(part, class_name) for class_name in without]
        notes += more
        if not scanned[part]:
            raise DataError(f"No images in {printable(str(root / name))}.", hint=LAYOUTS)
    class_names = sorted(scanned.get("train", {}))
    for part, classes in scanned.items():
        unknown = sorted(set(classes) - set(class_names))
        if class_names and unknown:
            raise DataError(
                f"Class {some(unknown)} of {part} is not in train, which has {some(class_names)}.",
                hint=f"Add it to train/, or remove it from {part}/.",
            )
    if not class_names:  # without train: `open_data` says so; a bare evaluation takes what is there
        class_names = sorted({name for classes in scanned.values() for name in classes})
    parts = {
        part: _source(root / folder_of[part], f"{folder_of[part]}/", classes, class_names)
        for part, classes in scanned.items()
    }
    return Found(parts, tuple(notes), tuple(empty))


def scan_classes(folder: Path) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """The images of a folder of class folders.

    Returns:
        By printable class name, the paths of its images below `folder`; the names of classes without images; and a note
        for each of those.
    """
    classes: dict[str, list[str]] = {}
    empty: list[str] = []
    notes: list[str] = []
    for name, paths in list_classes(folder).items():
        if paths:
            classes[printable(name)] = paths
        else:
            empty.append(printable(name))
            notes.append(f"Class folder '{printable(str(folder / name))}' holds no images and is left out.")
    return classes, empty, notes


class _PathsBelow(Sequence[Path]):
    """Paths below a folder, each made when it is asked for: a million of them would take seconds and half a GB."""

    def __init__(self, folder: Path, below: list[str]) -> None:
        self._folder, self._below = folder, below

    def __len__(self) -> int:
        return len(self._below)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> "_PathsBelow": ...

    def __getitem__(self, index: int | slice) -> "Path | _PathsBelow":
        if isinstance(index, slice):
            return _PathsBelow(self._folder, self._below[index])
        return self._folder / self._below[index]


def _source(folder: Path, prefix: str, classes: dict[str, list[str]], class_names: list[str]) -> Source:
    """The images of one split; `prefix` goes before their names."""
    label_of = {name: label for label, name in enumerate(class_names)}
    paths = [path for name in sorted(classes) for path in classes[name]]
    labels = np.repeat([label_of[name] for name in sorted(classes)], [len(classes[name]) for name in sorted(classes)])
    names = [printable(prefix + path) for path in paths]
    return FileSource(class_names, labels.astype(np.int64), names, _PathsBelow(folder, paths))
