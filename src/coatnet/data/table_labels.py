"""What the label cells of a text table mean: names, numbers, one column for each class. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from coatnet.data.class_names import class_name, valueless_names
from coatnet.data.samples import printable, some
from coatnet.data.text_tables import TextTable
from coatnet.errors import DataError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
# A class of which there are fewer images on average, or so many classes that are fractions: a quantity.
_LEAST_REPEATS, _MOST_FRACTIONS = 5, 50


def clean_labels(path: Path, cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of the classes as the cells mean them, and notes; 1.0 is 1.

    Raises:
        DataError: numbers that are a quantity, not classes.
    """
    labels = [class_name(cell) for cell in cells]
    distinct = sorted(set(labels))
    missing = valueless_names(distinct)
    numbers = [label for label in distinct if label not in missing]
    if not numbers or not all(_NUMBER.fullmatch(label) for label in numbers):
        return labels, []
    if missing:
        count = sum(label in missing for label in labels)
        raise DataError(
            f"{printable(str(path))}: {count} rows have the label {some(missing)}, the others have numbers.",
            "Remove these rows, or give them a label.",
        )
    if all(re.fullmatch(r"[+-]?\d+", label) for label in numbers):
        return labels, []
    if all(float(label).is_integer() for label in numbers):
        whole = {label: str(int(float(label))) for label in numbers}
        return [whole[label] for label in labels], ["Labels such as 1.0 are taken as the whole numbers they are."]
    if len(numbers) * _LEAST_REPEATS > len(labels) or len(numbers) > _MOST_FRACTIONS:
        raise DataError(
            f"The labels of {printable(str(path))} are {len(numbers)} different numbers such as {some(numbers, 2)}: "
            "they look like a quantity, and coatnet tells classes apart.",
            "Put the numbers into ranges, and write the name of its range as the label of each image.",
        )
    return labels, []


def from_columns(path: Path, table: TextTable, columns: Sequence[str]) -> list[str] | None:
    """Labels from one column of 0 and 1 for each class; None if these columns are no such ones.

    Raises:
        DataError: a row with several classes, or none.
    """
    places = [table.first.index(column) for column in columns]
    if len(places) < 2 or not table.rows:
        return None
    labels = []
    for line, row in table.rows:
        cells = [row[place].lower() for place in places]
        if not all(cell in _TRUE or cell in _FALSE for cell in cells):
            return None
        true = [column for column, cell in zip(columns, cells, strict=True) if cell in _TRUE]
        if len(true) != 1:
            raise DataError(
                f"{printable(str(path))}, line {line}: {len(true)} columns of classes are 1, expected one.",
                "coatnet gives one class to an image: leave such rows out, or name one column with --label-column.",
            )
        labels.append(true[0])
    return labels


def is_true(cell: str) -> bool | None:
    """Whether a cell says yes; None if it says neither."""
    return True if cell.lower() in _TRUE else False if cell.lower() in _FALSE else None
