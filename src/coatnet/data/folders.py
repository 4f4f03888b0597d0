"""Class folders: `root/class/*` and `root/{train,val,test}/class/*`. No torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from coatnet.data.class_names import class_name
from coatnet.data.listing import OUTSIDE, list_classes, look_into, tell_left_out
from coatnet.data.samples import FileSource, Source, printable, some
from coatnet.data.split_names import split_of, splits_among
from coatnet.errors import DataError

# Archives of archives; a link that leads back into its own folder ends here too.
_MOST_WRAPPERS = 8
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")

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
        left_out: how many files and folders are not used, by suffix or by another reason; a note tells them too.
    """

    parts: dict[str, Source]
    notes: tuple[str, ...] = ()
    empty: tuple[tuple[str, str], ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass
class Classes:
    """The images of a folder of class folders.

    Attributes:
        folder: where the class folders are.
        prefix: goes before the paths of images in their names.
        files: by class name, the paths of its images below `folder`.
        empty: the names of classes without images.
        left_out: as `Found.left_out`.
        notes: one line each for what the user should know.
    """

    folder: Path
    prefix: str
    files: dict[str, list[str]]
    empty: list[str]
    left_out: Counter[str]
    notes: list[str]


def read_folders(root: Path) -> Found:
    """Find the images of a folder of class folders.

    Raises:
        DataError: no images, only one of the splits needed, or a class that train does not know.
    """
    place, around = unwrapped(root)
    notes = [] if place == root else [f"The data is in {printable(str(place.relative_to(root)))}/, which lies alone."]
    below = "" if place == root else f"{place.relative_to(root).as_posix()}/"
    folders, lying, beside_them = look_into(place)
    splits = splits_among(folders)
    labelled = {name: part for name, part in splits.items() if look_into(place / name)[0]}
    if "train" in labelled.values() or (labelled and list(labelled) == folders):
        beside = [name for name in folders if name not in labelled]
        left_out = around + Counter(beside_them) + Counter({OUTSIDE: lying})
        return _read_splits(place, below, labelled, notes + _beside(place, beside, splits), left_out)
    if splits and len(splits) == len(folders):
        raise DataError(
            f"The folders of {printable(str(place))} are splits without classes: {some(folders, 9)} hold images, not "
            "class folders.",
            hint="Put each image into a folder of its class, as train/CLASS/image.jpg, or give a CSV file with the "
            "columns path,label,split.",
        )
    classes = scan_classes(place, below)
    classes.left_out += around
    class_names = sorted(classes.files)
    if not class_names:
        raise _nothing(place, lying, classes.left_out)
    _check_levels(place, classes)
    parts = {"all": _source(classes, class_names)}
    told = (*notes, *classes.notes, *tell_left_out(classes.left_out))
    return Found(parts, told, tuple(("all", name) for name in classes.empty), dict(classes.left_out))


def unwrapped(root: Path, inside_split: bool = False) -> tuple[Path, Counter[str]]:
    """The folder that holds the class folders or the splits: archives often wrap it in folders that hold nothing else.

    Args:
        root: where to begin.
        inside_split: the folder is a split, so that one of a split's name in it, as train/train/, is a wrapper.

    Returns:
        The folder, and what is left out around it.
    """
    place, around = root, Counter[str]()
    for _ in range(_MOST_WRAPPERS):
        folders, lying, left_out = look_into(place)
        if len(folders) != 1 or lying:
            break
        inner, inner_lying, _ = look_into(place / folders[0])
        lone_split = split_of(folders[0]) and not inside_split and len(splits_among(inner)) != len(inner)
        if not inner or inner_lying or lone_split:
            break
        place, around = place / folders[0], around + Counter(left_out)
    return place, around


def _beside(place: Path, others: list[str], splits: Mapping[str, str]) -> list[str]:
    """What to say of folders beside the splits."""
    notes = []
    for name in others:
        num_images = look_into(place / name)[1]
        if name in splits and num_images:
            notes.append(
                f"Folder '{printable(name)}' holds {num_images:,} images without class folders, so without labels: it "
                "is not used."
            )
        else:
            notes.append(f"Folder '{printable(name)}' beside the splits is not used.")
    return notes


def _read_splits(
    root: Path, below: str, split_folders: Mapping[str, str], notes: list[str], left_out: Counter[str]
) -> Found:
    scanned: dict[str, Classes] = {}
    for name, part in split_folders.items():
        if part in scanned:
            raise DataError(
                f"Two folders for the split '{part}' in {printable(str(root))}: {some(list(split_folders), 9)}.",
                hint="Keep one of train, one of val/valid/validation/dev, one of test.",
            )
        place, around = unwrapped(root / name, inside_split=True)
        left_out += around
        scanned[part] = scan_classes(place, f"{below}{place.relative_to(root).as_posix()}/")
        if not scanned[part].files:
            raise _nothing(root / name, 0, scanned[part].left_out)
    class_names = sorted(scanned["train"].files) if "train" in scanned else []
    for part in [part for part in scanned if class_names and part != "train"]:
        unknown = sorted(set(scanned[part].files) - set(class_names))
        if unknown and len(scanned[part].files) == 1:
            notes.append(
                f"Folder '{some(unknown)[1:-1]}' of {part} is no class of train: its images have no labels and are not "
                "used."
            )
            del scanned[part]
        elif unknown:
            raise DataError(
                f"Class {some(unknown)} of {part} is not in train, which has {some(class_names)}.",
                hint=f"Add it to train/, or remove it from {part}/.",
            )
    if not class_names:  # without train: `open_data` says so; a bare evaluation takes what is there
        class_names = sorted({name for classes in scanned.values() for name in classes.files})
    for classes in scanned.values():
        _check_levels(classes.folder, classes)
        notes += classes.notes
        left_out += classes.left_out
    parts = {part: _source(classes, class_names) for part, classes in scanned.items()}
    empty = tuple((part, name) for part, classes in scanned.items() for name in classes.empty)
    return Found(parts, (*notes, *tell_left_out(left_out)), empty, dict(left_out))


def _nothing(place: Path, lying: int, left_out: Mapping[str, int]) -> DataError:
    """The error for a folder without labelled images."""
    found = f"{lying} images lie in it without a class folder" if lying else "it holds no class folders with images"
    others = {reason: count for reason, count in left_out.items() if reason != OUTSIDE}
    told = "".join(line[0].lower() + line[1:].removesuffix(".") for line in tell_left_out(others))
    archives = any(reason in _ARCHIVES for reason in others)
    hint = "Unpack the archive first, and give the folder that comes out." if archives else LAYOUTS
    return DataError(f"No labelled images in {printable(str(place))}: {found}{told and '; '}{told}.", hint=hint)


def _check_levels(place: Path, classes: Classes) -> None:
    """See which level of folders is the class: stop where both may be, say what is taken where folders lie deeper.

    Raises:
        DataError: the folders taken for classes hold folders of the same names, and nothing else.
    """
    below = {
        name: {path.split("/")[1] for path in paths if path.count("/") > 1} for name, paths in classes.files.items()
    }
    if any(path.count("/") == 1 for paths in classes.files.values() for path in paths):
        return
    shared, together = set.intersection(*below.values()), set.union(*below.values())
    if len(below) > 1 and len(shared) > 1 and 2 * len(shared) >= len(together):
        raise DataError(
            f"Two levels of folders may be the classes of {printable(str(place))}: {some(sorted(below))}, or "
            f"{some(sorted(shared))}, which lie in each of them.",
            hint="Name the upper ones train, val and test if they are splits; else move the images up, or give a CSV "
            "file with the columns path,label.",
        )
    if len(together) > 1:
        first = next(iter(classes.files.values()))[0].rpartition("/")[0]
        classes.notes.append(
            f"The classes are the folders of the first level, {some(sorted(classes.files))}; the {len(together)} "
            f"folders in them, such as '{printable(first)}', are not told apart."
        )


def scan_classes(folder: Path, prefix: str = "") -> Classes:
    """The images of a folder of class folders, by the names of their classes."""
    listing = list_classes(folder)
    classes = Classes(folder, prefix, {}, [], Counter(listing.left_out), [])
    for raw, paths in listing.files.items():
        name = class_name(raw)
        if not paths:
            classes.empty.append(name)
            classes.notes.append(f"Class folder '{printable(str(folder / raw))}' holds no images and is left out.")
        elif name in classes.files:
            classes.files[name] = classes.files[name] + paths
            classes.notes.append(f"Two folders of '{name}' differ only in spaces or Unicode form: they are one class.")
        else:
            classes.files[name] = paths
    classes.empty = [name for name in classes.empty if name not in classes.files]
    if listing.by_content:
        classes.notes.append(f"{listing.by_content:,} files without the suffix of an image hold one and are used.")
    return classes


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


def _source(classes: Classes, class_names: list[str]) -> Source:
    """The images of one split."""
    label_of = {name: label for label, name in enumerate(class_names)}
    used = sorted(classes.files)
    paths = [path for name in used for path in classes.files[name]]
    labels = np.repeat([label_of[name] for name in used], [len(classes.files[name]) for name in used])
    names = [printable(classes.prefix + path) for path in paths]
    return FileSource(class_names, labels.astype(np.int64), names, _PathsBelow(classes.folder, paths))
