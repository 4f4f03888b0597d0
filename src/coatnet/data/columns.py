"""Which columns of a table hold images, labels and splits, whatever they are called. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from coatnet.data.samples import printable, some
from coatnet.errors import DataError

# The usual names, without case, spaces and underscores; the earlier ones go first where a table has several.
_IMAGE_NAMES = (
    *("image", "img", "path", "filepath", "imagepath", "imgpath", "filename", "file", "imagefile", "imagefilename"),
    *("imagename", "imgname", "imageid", "imgid", "fname", "name", "id", "images"),
)
_LABEL_NAMES = (
    *("label", "labels", "class", "classname", "classlabel", "labelname", "category", "categoryname", "target"),
    *("classid", "labelid", "categoryid", "classes", "species", "breed", "diagnosis"),
)
_SPLIT_NAMES = ("split", "subset", "partition", "set", "usage", "phase")
_HELD_OUT_NAMES = ("isvalid", "isval", "isvalidation")
PLAIN_PATHS = ("path",)
"""What a text table calls its images without a need to say so."""
IMAGE, LABEL = "image", "label"
"""The names that are asked for unless others are."""


def find_image_column(columns: Sequence[str], asked: str, path: Path) -> str:
    """The column of images: the one asked for, else by its name.

    Raises:
        DataError: there is none.
    """
    found = _named(columns, asked, _IMAGE_NAMES if asked == IMAGE else ())
    if found is None:
        raise _error("image", columns, asked, path)
    return found


def find_label_column(columns: Sequence[str], asked: str, others: Sequence[str]) -> str | None:
    """The column of labels: the one asked for, else by its name, else the only one besides those for other things."""
    found = _named(columns, asked, _LABEL_NAMES if asked == LABEL else ())
    left = [column for column in columns if column not in others]
    return found or (left[0] if asked == LABEL and len(left) == 1 else None)


def no_label_column(columns: Sequence[str], asked: str, path: Path) -> DataError:
    """The error for a table without a column of labels."""
    return _error("label", columns, asked, path)


def find_split_column(columns: Sequence[str]) -> str | None:
    """The column that says the split of each row, by its name."""
    return _named(columns, "split", _SPLIT_NAMES)


def find_held_out_column(columns: Sequence[str]) -> str | None:
    """The column is_valid, which is true for images to validate on, by its name."""
    return _named(columns, "is_valid", _HELD_OUT_NAMES)


def names_columns(cells: Sequence[str]) -> bool:
    """Whether the first line of a table names columns, as far as the names are usual ones."""
    return any(_key(cell) in (*_IMAGE_NAMES, *_LABEL_NAMES) for cell in cells)


def _named(columns: Sequence[str], asked: str, usual: Sequence[str]) -> str | None:
    if asked in columns:
        return asked
    by_key = {_key(column): column for column in reversed(columns)}
    return next((by_key[key] for key in usual if key in by_key), None)


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _error(kind: str, columns: Sequence[str], asked: str, path: Path) -> DataError:
    return DataError(
        f"{printable(str(path))} has no column '{asked}'; it has {some(columns, 20) or 'none'}.",
        hint=f"Say which column holds the {kind}s with --{kind}-column; in Python it is {kind}_column.",
    )
