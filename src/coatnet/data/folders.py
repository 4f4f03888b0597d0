"""Class folders: `root/class/*` and `root/{train,val,test}/class/*`. No torch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coatnet.data.samples import FileSource, Source, printable, some
from coatnet.errors import DataError

# What counts as an image in a class folder; a wrong suffix on a real image is no hindrance, the bytes decide.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUTS = (
    "Understood are root/class/image.jpg; root/train/class/image.jpg with val/ and test/ beside; Parquet files "
    "train.parquet, val.parquet, test.parquet; a .csv file with the columns path,label; and the name digits."
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
    folders = _subfolders(root)
    split_folders = [name for name in folders if name.lower() in SPLIT_NAMES and _subfolders(root / name)]
    if any(name.lower() == "train" for name in split_folders) or (split_folders and split_folders == folders):
        return _read_splits(root, split_folders, [name for name in folders if name not in split_folders])
    classes, empty, notes = _scan_classes(root)
    class_names = sorted(classes)
    if not class_names:
        lying = sum(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root))
        beside = (
            f"{lying} images lie in it without a class folder" if lying else "it holds no class folders with images"
        )
        raise DataError(f"No labelled images in {printable(str(root))}: {beside}.", hint=LAYOUTS)
    return Found({"all": _source(root, classes, class_names)}, tuple(notes), tuple(("all", name) for name in empty))


def _read_splits(root: Path, split_folders: list[str], others: list[str]) -> Found:
    notes = [f"Folder '{printable(name)}' beside the splits is not used." for name in others]
    scanned: dict[str, dict[str, list[Path]]] = {}
    empty: list[tuple[str, str]] = []
    for name in split_folders:
        part = SPLIT_NAMES[name.lower()]
        if part in scanned:
            raise DataError(
                f"Two folders for the split '{part}' in {printable(str(root))}: {some(split_folders, 9)}.",
                hint="Keep one of train, one of val/valid/validation, one of test.",
            )
        scanned[part], without, more = _scan_classes(root / name)
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
    sources = {part: _source(root, classes, class_names) for part, classes in scanned.items()}
    return Found(sources, tuple(notes), tuple(empty))


def _scan_classes(folder: Path) -> tuple[dict[str, list[Path]], list[str], list[str]]:
    """Images by class, the names of class folders without any, and a note for each of those."""
    classes: dict[str, list[Path]] = {}
    empty: list[str] = []
    notes: list[str] = []
    for name in _subfolders(folder):
        paths = sorted(_images_below(folder / name, set()))
        if paths:
            classes[printable(name)] = paths
        else:
            empty.append(printable(name))
            notes.append(f"Class folder '{printable(str(folder / name))}' holds no images and is left out.")
    return classes, empty, notes


def _source(root: Path, classes: dict[str, list[Path]], class_names: list[str]) -> Source:
    label_of = {name: label for label, name in enumerate(class_names)}
    paths = [path for name in sorted(classes) for path in classes[name]]
    labels = np.repeat([label_of[name] for name in sorted(classes)], [len(classes[name]) for name in sorted(classes)])
    prefix = len(os.fspath(root).rstrip(os.sep)) + 1 if os.fspath(root) != "." else 0
    names = [printable(os.fspath(path)[prefix:].replace(os.sep, "/")) for path in paths]
    return FileSource(class_names, labels.astype(np.int64), names, paths)


def _subfolders(folder: Path) -> list[str]:
    with _listing(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _images_below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Image files of a folder and the folders in it; each real folder once, so links in a loop end."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with _listing(folder) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    for name, is_folder in sorted(found):
        if is_folder:
            yield from _images_below(folder / name, seen)
        elif name.lower().endswith(IMAGE_SUFFIXES):
            yield folder / name


def _listing(folder: Path) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(folder)
    except OSError as error:
        raise DataError(
            f"Folder {printable(str(folder))} cannot be listed: {error.strerror}.", hint="Check its permissions."
        ) from error
