"""ImageNet-1K as the challenge lays it out: class folders for training, one flat folder for validation. No torch."""

import csv
import os
from pathlib import Path

import numpy as np

from coatnet.data.folders import Found, scan_classes
from coatnet.data.listing import tell_left_out
from coatnet.data.samples import FileSource, Source, printable, some
from coatnet.errors import DataError

_FLAT_PREFIX = "ILSVRC2012_val_"
# Beside the images as Kaggle packs them, and in the development kit of the challenge.
_SOLUTION = "LOC_val_solution.csv"
_KIT = ("ILSVRC2012_devkit_t12/data", "")
_GROUND_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_HINT = (
    f"Put {_SOLUTION} (from the same download) beside ILSVRC/, or the folder ILSVRC2012_devkit_t12 of the challenge's "
    "development kit."
)


def find_challenge(folder: Path) -> Path | None:
    """The folder that holds train/ and the flat val/: the folder itself or ILSVRC/Data/CLS-LOC in it; else None."""
    for place in (folder, folder / "ILSVRC" / "Data" / "CLS-LOC", folder / "Data" / "CLS-LOC"):
        if (place / "train").is_dir() and (place / "val").is_dir():
            with os.scandir(place / "val") as entries:
                first = next((entry for entry in entries if not entry.name.startswith(".")), None)
            if first is not None and first.name.startswith(_FLAT_PREFIX):
                return place
    return None


def read_challenge(place: Path) -> Found:
    """Training and validation images; the test images have no labels.

    Raises:
        DataError: the labels of the validation images are not there, or not all.
    """
    classes = scan_classes(place / "train")
    class_names, notes = sorted(classes.files), [*classes.notes, *tell_left_out(classes.left_out)]
    label_of = {name: label for label, name in enumerate(class_names)}
    train_files = [(f"train/{path}", name) for name in class_names for path in classes.files[name]]
    synset_of = _validation_synsets(place)
    val_names = sorted(name for name in os.listdir(place / "val") if name.startswith(_FLAT_PREFIX))
    unlabelled = [name for name in val_names if Path(name).stem not in synset_of]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(val_names)} validation images have no label: {some(unlabelled)}.", hint=_HINT
        )
    val_files = [(f"val/{name}", synset_of[Path(name).stem]) for name in val_names]
    unknown = sorted({synset for _, synset in val_files} - set(class_names))
    if unknown:
        raise DataError(
            f"Class {some(unknown)} of val is not in train, which has {some(class_names)}.",
            hint="Unpack the training images of these classes too.",
        )
    if (place / "test").is_dir():
        notes.append("The test images have no labels and are not used.")

    def source(files: list[tuple[str, str]]) -> Source:
        labels = np.array([label_of[synset] for _, synset in files], dtype=np.int64)
        return FileSource(
            class_names, labels, [printable(path) for path, _ in files], [place / path for path, _ in files]
        )

    parts = {"train": source(train_files), "val": source(val_files)}
    empty = tuple(("train", name) for name in classes.empty)
    return Found(parts, tuple(notes), empty, dict(classes.left_out))


def _validation_synsets(place: Path) -> dict[str, str]:
    """Synset by name of the validation image, from the folder or one of the three above it."""
    for folder in (place, *list(place.absolute().parents)[:3]):
        if (folder / _SOLUTION).is_file():
            return _from_solution(folder / _SOLUTION)
        for kit in _KIT:
            if (folder / kit / _GROUND_TRUTH).is_file():
                return _from_kit(folder / kit)
    raise DataError(f"The labels of the validation images of {printable(str(place))} are not there.", hint=_HINT)


def _from_solution(path: Path) -> dict[str, str]:
    """Each row is the name of an image and its objects, each a synset and four corners; all are of one synset."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file, strict=True)}
    except (OSError, ValueError, KeyError, IndexError, AttributeError, csv.Error) as error:
        raise DataError(
            f"{printable(str(path))} is not as the challenge made it: expected rows of ImageId,PredictionString.",
            hint="Download it again.",
        ) from error


def _from_kit(kit: Path) -> dict[str, str]:
    """One number for each image in order. The numbers are the kit's own: only `meta.mat` says which synset is which."""
    from scipy.io import loadmat  # scikit-learn brings it
    from scipy.io.matlab import MatReadError

    if not (kit / _META).is_file():
        raise DataError(
            f"{printable(str(kit / _GROUND_TRUTH))} numbers the classes, but {_META}, which names them, is not there.",
            hint="Take the whole folder ILSVRC2012_devkit_t12/data, or LOC_val_solution.csv instead.",
        )
    try:
        rows = loadmat(kit / _META, squeeze_me=True)["synsets"]
        synset_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(rows)}
        numbers = [int(line) for line in (kit / _GROUND_TRUTH).read_text(encoding="ascii").split()]
        return {f"{_FLAT_PREFIX}{index:08d}": synset_of[number] for index, number in enumerate(numbers, start=1)}
    except (OSError, MatReadError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{printable(str(kit))} is not as the challenge made it: {error}.", hint="Download the kit again."
        ) from error
