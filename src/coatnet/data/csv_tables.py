"""Text tables of images: a path and a label in each row, optionally a split. No torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coatnet.data.columns import (
    PLAIN_PATHS,
    find_held_out_column,
    find_image_column,
    find_label_column,
    find_split_column,
    names_columns,
    no_label_column,
)
from coatnet.data.folders import LAYOUTS, Found
from coatnet.data.listing import IMAGE_SUFFIXES, look_into
from coatnet.data.samples import FileSource, Source, printable, some
from coatnet.data.split_names import split_of
from coatnet.data.table_labels import clean_labels, from_columns, is_true
from coatnet.data.table_paths import locate
from coatnet.data.tables import encode_labels
from coatnet.data.text_tables import TextTable, read_text_table
from coatnet.errors import DataError


class TableOptions(NamedTuple):
    """How a table is read, as `DataConfig` says it."""

    image_column: str
    label_column: str
    image_root: str | None = None
    image_suffix: str | None = None


@dataclass
class Rows:
    """The rows of a table, in its order.

    Attributes:
        path: of the table.
        lines: the number of each row's line.
        images: what each says of its image.
        labels: the class of each.
        splits: train, val, test, or all.
        notes: one line each for what the user should know.
    """

    path: Path
    lines: list[int]
    images: list[str]
    labels: list[str]
    splits: list[str]
    notes: list[str] = field(default_factory=list)


def read_csv(path: Path, options: TableOptions) -> Found:
    """Read a text table: a path, a label and optionally a split per row; columns by their names.

    Raises:
        DataError: no text, a missing column or cell, a split or label that is not known, files that are not there.
    """
    return read_csv_files({path: "all"}, options)


def read_csv_files(paths: dict[Path, str], options: TableOptions) -> Found:
    """Read one text table for each split, or one for all."""
    parts: dict[str, dict[str, str]] = {}
    files: dict[str, Path] = {}
    notes: list[str] = []
    for path, split in paths.items():
        rows = _rows(path, options)
        located = locate(path, rows.images, options.image_root, options.image_suffix)
        prefix = "" if len(paths) == 1 else f"{path.parent.name}/"
        rows.images = [prefix + name for name in located.names]
        files |= {prefix + name: located.base / name for name in located.names}
        if split != "all":
            rows.splits = [split] * len(rows.splits)
        notes += [*rows.notes, *located.notes, *_gather(rows, parts)]
    parts = {part: dict(sorted(images.items())) for part, images in parts.items()}
    class_names, labels = encode_labels(
        {part: np.array(list(images.values()), dtype=object) for part, images in parts.items()}, None
    )
    sources: dict[str, Source] = {
        part: FileSource(class_names, labels[part], [printable(name) for name in images], [files[n] for n in images])
        for part, images in parts.items()
    }
    return Found(sources, tuple(notes))


def _rows(path: Path, options: TableOptions) -> Rows:
    """Images, labels and splits of the rows."""
    table = _with_header(path, read_text_table(path))
    if not table.rows:
        raise DataError(f"{printable(str(path))} has no rows below its header.", hint=LAYOUTS)
    image = find_image_column(table.first, options.image_column, path)
    split = find_split_column(table.first)
    splits = _splits(path, table, split, find_held_out_column(table.first))
    spoken_for = [image, *([splits.column] if splits.column else [])]
    label = find_label_column(table.first, options.label_column, spoken_for)
    others = [column for column in table.first if column not in spoken_for]
    if label is None:
        cells = from_columns(path, table, others)
        if cells is None:
            raise no_label_column(table.first, options.label_column, path)
        notes = [f"The labels are the columns of 0 and 1: {some(others)}."]
        others = []
    else:
        cells, notes = _column(table, label), []
        others.remove(label)
        if image not in (options.image_column, *PLAIN_PATHS) or label != options.label_column:
            notes.append(f"Images are those of column '{printable(image)}', labels those of '{printable(label)}'.")
    if others:
        notes.append(f"Columns that are not used: {some(others, 9)}.")
    if table.num_stripped:
        notes.append(f"Spaces at the ends of {table.num_stripped:,} cells are left out.")
    images = _column(table, image)
    _check_filled(path, table, {image: images, label or "label": cells})
    labels, more = clean_labels(path, cells)
    return Rows(path, [line for line, _ in table.rows], images, labels, splits.values, notes + more)


def _with_header(path: Path, table: TextTable) -> TextTable:
    """The table with a first line of names: path and label where it has none, for two columns."""
    first = table.first
    if path.suffix.lower() == ".jsonl" or names_columns(first) or not any(_is_image(cell) for cell in first):
        return table
    if len(first) != 2:
        raise DataError(
            f"{printable(str(path))} has no header: its first line is {some(first, 9)}.",
            "Write the names of the columns into a first line, such as path,label.",
        )
    names = ["path", "label"] if _is_image(first[0]) else ["label", "path"]
    return table._replace(first=names, rows=[(1, first), *table.rows])


def _is_image(cell: str) -> bool:
    return cell.lower().endswith(IMAGE_SUFFIXES)


def _column(table: TextTable, name: str) -> list[str]:
    place = table.first.index(name)
    return [row[place] for _, row in table.rows]


def _check_filled(path: Path, table: TextTable, columns: dict[str, list[str]]) -> None:
    for name, cells in columns.items():
        empty = [line for (line, _), cell in zip(table.rows, cells, strict=True) if not cell]
        if empty:
            rows = "1 row has" if len(empty) == 1 else f"{len(empty)} rows have"
            raise DataError(
                f"{printable(str(path))}, line {empty[0]}: an empty cell in column '{printable(name)}'; {rows} one.",
                hint="Fill it or remove the line.",
            )


class _Splits(NamedTuple):
    column: str | None
    values: list[str]


def _splits(path: Path, table: TextTable, split: str | None, held_out: str | None) -> _Splits:
    """The split of each row, and the column that says it, if one does.

    Raises:
        DataError: a column named split with other words, or empty cells.
    """
    whole = ["all"] * len(table.rows)
    if split is None:
        truths = [is_true(cell) for cell in _column(table, held_out)] if held_out else []
        if not truths or None in truths:
            return _Splits(None, whole)
        return _Splits(held_out, ["val" if truth else "train" for truth in truths])
    cells = _column(table, split)
    parts = [split_of(cell) for cell in cells]
    wrong = [(line, cell) for (line, _), cell, part in zip(table.rows, cells, parts, strict=True) if part is None]
    if not wrong:
        return _Splits(split, [part for part in parts if part])
    if split != "split":  # a column set of numbers is no split
        return _Splits(None, whole)
    line, cell = wrong[0]
    what = f"split '{printable(cell)}' is not train, val or test" if cell else "an empty cell in column 'split'"
    raise DataError(
        f"{printable(str(path))}, line {line}: {what}; so in {len(wrong)} of {len(cells)} rows.",
        hint="Write train, val or test into each row, or remove the column, and a split is chosen.",
    )


def _gather(rows: Rows, parts: dict[str, dict[str, str]]) -> list[str]:
    """Put the rows into their splits, each image once.

    Raises:
        DataError: an image with two labels or splits.
    """
    part_of = {name: part for part, images in parts.items() for name in images}
    num_repeated = 0
    twice: list[tuple[int, str]] = []
    for line, name, label, part in zip(rows.lines, rows.images, rows.labels, rows.splits, strict=True):
        num_repeated += name in part_of
        images = parts.setdefault(part, {})
        if part_of.setdefault(name, part) != part or images.setdefault(name, label) != label:
            twice.append((line, name))
    if twice:
        line, name = twice[0]
        raise DataError(
            f"{printable(str(rows.path))}, line {line}: '{printable(name)}' has two labels or splits; so in "
            f"{len(twice)} rows.",
            hint="coatnet gives one class to an image: keep one line for each.",
        )
    return (
        [f"{num_repeated} rows of {printable(rows.path.name)} repeat an image and are not used."]
        if num_repeated
        else []
    )


def metadata_files(folder: Path) -> dict[Path, str]:
    """The table metadata.csv or metadata.jsonl of a folder, or those of its splits' folders, each with its split."""
    whole = _metadata(folder)
    if whole:
        return {whole: "all"}
    places = [(folder / name, part) for name in look_into(folder)[0] if (part := split_of(name))]
    return {table: part for place, part in places if (table := _metadata(place))}


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()), None)


def has_labels(path: Path, options: TableOptions) -> bool:
    """Whether a table has a column of labels: one of captions or boxes has not."""
    columns = read_text_table(path).first
    if not names_columns(columns):
        return False
    return find_label_column(columns, options.label_column, columns) is not None
