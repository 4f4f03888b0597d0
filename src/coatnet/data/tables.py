"""Tables of images in Parquet, ours and Hugging Face's. No torch; pyarrow is imported when it is needed."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coatnet.data.class_names import class_name
from coatnet.data.columns import find_image_column, find_label_column, no_label_column
from coatnet.data.folders import LAYOUTS, Found
from coatnet.data.listing import IMAGE_SUFFIXES, look_into
from coatnet.data.parquet_reading import read_columns, read_schema
from coatnet.data.samples import ArrowColumn, ArrowSource, FileSource, Source, printable, some
from coatnet.data.split_names import SPLIT_NAMES, split_of
from coatnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Whole numbers that a float64 holds exactly.
_MOST_WHOLE = 2.0**53
# train.parquet, and shards as Hugging Face names them: train-00000-of-00002.parquet, with a hash in older ones.
_SPLIT_FILE = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?", re.IGNORECASE)
# The configuration of a data set and the split are folders in some repositories: default/train/0000.parquet.
_MOST_FOLDERS, _MOST_DEPTH = 20, 3
# A name of a class; the longest of ImageNet-21K have about 150 characters.
_MOST_LABEL = 1000


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, of `data/` in it, or of folders for a configuration and the splits, as Hugging
    Face's repositories keep them.

    Raises:
        DataError: there are several configurations.
    """
    for place in (folder, folder / "data"):
        files = sorted(path for path in place.glob("*.parquet") if not path.name.startswith("."))
        if files:
            return files
    return _parquet_below(folder, _MOST_DEPTH)


def _parquet_below(folder: Path, depth: int) -> list[Path]:
    folders = look_into(folder)[0] if depth else []
    if not 0 < len(folders) <= _MOST_FOLDERS:
        return []
    splits = [path for name in folders if split_of(name) for path in _parquet_in(folder / name)]
    if splits:
        return splits
    found = {
        name: files
        for name in folders
        if (files := _parquet_in(folder / name) or _parquet_below(folder / name, depth - 1))
    }
    if len(found) > 1:
        raise DataError(
            f"{printable(str(folder))} holds several data sets: Parquet files lie in {some(list(found), 9)}.",
            hint=f"Give one of them, such as {printable(str(folder / next(iter(found))))}.",
        )
    return next(iter(found.values()), [])


def _parquet_in(folder: Path) -> list[Path]:
    """The Parquet files of one folder; of one with images, which may be many, none."""
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(IMAGE_SUFFIXES):
                return []
            if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                found.append(folder / entry.name)
    return sorted(found)


def read_parquet(files: Sequence[Path], image_column: str, label_column: str) -> Found:
    """Read Parquet files whose names or folders say their split; files of other names are one unsplit set.

    Raises:
        DataError: a file that is damaged, a column that is missing or of a wrong type, a label without a class.
    """
    grouped, others = _by_split(files)
    notes = [f"File '{printable(path.name)}' beside the splits is not used." for path in others] if grouped else []
    if not grouped:
        grouped = {"all": others}
    for paths in grouped.values():
        _check_shards(paths)
    first = next(iter(grouped.values()))[0]
    schema = read_schema(first)
    image, label, more = _columns(schema.names, image_column, label_column, first)
    tables = {part: [_read_table(path, image, label) for path in paths] for part, paths in grouped.items()}
    names = _stored_class_names(schema, label, first.parent)
    values = {part: label_values([table[label] for table in parts], first) for part, parts in tables.items()}
    values, unlabelled = without_unlabelled_test(values)
    class_names, labels = encode_labels(values, names)
    parts = {
        part: _table_source(grouped[part], [table[image] for table in tables[part]], class_names, labels[part])
        for part in values
    }
    nulls = sum(table[image].null_count for part in values for table in tables[part])
    empty = [f"{nulls} rows hold no image and count as unreadable."] if nulls else []
    return Found(parts, (*notes, *more, *unlabelled, *empty))


def _by_split(files: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each split, and those of none."""
    in_folders = len({path.parent for path in files}) > 1 or (len(files) == 1 and split_of(files[0].parent.name))
    grouped: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in files:
        matched = _SPLIT_FILE.fullmatch(path.stem)
        part = split_of(path.parent.name) if in_folders else SPLIT_NAMES[matched[1].lower()] if matched else None
        if part and (len(files) > 1 or in_folders):
            grouped.setdefault(part, []).append(path)
        else:
            others.append(path)
    return grouped, others


def _columns(columns: Sequence[str], image_column: str, label_column: str, path: Path) -> tuple[str, str, list[str]]:
    """The columns of images and labels, and what to say of the choice."""
    image = find_image_column(columns, image_column, path)
    label = find_label_column(columns, label_column, [image])
    if label is None:
        raise no_label_column(columns, label_column, path)
    notes = []
    if (image, label) != (image_column, label_column):
        notes.append(f"Images are those of column '{printable(image)}', labels those of '{printable(label)}'.")
    return image, label, notes


def _check_shards(paths: Sequence[Path]) -> None:
    matched = [_SPLIT_FILE.fullmatch(path.stem) for path in paths]
    expected = {int(match[3]) for match in matched if match and match[3]}
    if expected and (len(expected) > 1 or len(paths) != max(expected)):
        raise DataError(
            f"{len(paths)} shards of {max(expected)} found, beginning with '{printable(paths[0].name)}'.",
            hint="Download the missing ones.",
        )


def _read_table(path: Path, image: str, label: str) -> "pa.Table":
    columns = read_schema(path).names
    find_image_column(columns, image, path)
    if label not in columns:
        raise no_label_column(columns, label, path)
    return _flat(read_columns(path, [image, label]), path)


def _flat(table: "pa.Table", path: Path) -> "pa.Table":
    """The table, with lists of one image or label as that.

    Raises:
        DataError: a list of several.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, column in enumerate(table.columns):
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            continue
        if place == 0 and pa.types.is_primitive(kind.value_type):
            continue  # pixels, which `_table_source` refuses
        lengths = pc.min_max(pc.list_value_length(column))
        if lengths["min"].as_py() != 1 or lengths["max"].as_py() != 1 or column.null_count:
            raise DataError(
                f"Column '{printable(table.column_names[place])}' of {printable(str(path))} is {kind} with "
                f"{lengths['min']} to {lengths['max']} values; expected the bytes of one image file, and one label.",
                hint="coatnet gives one class to an image: write one image file and one label into each row.",
            )
        table = table.set_column(place, table.column_names[place], pc.list_flatten(column))
    return table


def _stored_class_names(schema: "pa.Schema", label_column: str, folder: Path) -> tuple[str, ...] | None:
    """Class names from `label_names` or Hugging Face's metadata in the file, or from labels.txt beside it."""
    metadata = schema.metadata or {}
    names: Any = None
    try:
        if b"label_names" in metadata:
            names = json.loads(metadata[b"label_names"])
        elif b"huggingface" in metadata:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            names = features.get(label_column, {}).get("names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"The class names stored in the Parquet file cannot be read: {error!r}.") from error
    if names is None and (folder / "labels.txt").is_file():
        names = (folder / "labels.txt").read_text(encoding="utf-8").split("\n")
        names = [name.strip() for name in names if name.strip()]
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError("The class names stored with the Parquet file are not a list of different strings.")
    return tuple(names)


def label_values(columns: "Sequence[pa.ChunkedArray]", path: Path) -> NDArray[Any]:
    """The label column of one split as int64, or as names of classes (object)."""
    import pyarrow as pa

    decoded = []
    for column in columns:
        if column.null_count:
            raise DataError(f"{column.null_count} rows of {printable(str(path))} have no label.", hint="Remove them.")
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_integer(kind):
            decoded.append(column.cast(pa.int64()).to_numpy())
        elif pa.types.is_floating(kind):
            decoded.append(_whole(column.cast(pa.float64()).to_numpy(), path))
        elif pa.types.is_boolean(kind) or _is_text(kind):
            decoded.append(_names(column, path))
        else:
            raise DataError(f"The labels of {printable(str(path))} are {kind}; expected integers or strings.")
    if len({values.dtype.kind for values in decoded if len(values)}) > 1:
        raise DataError(f"The labels beginning with {printable(str(path))} are integers in one file, text in another.")
    return np.concatenate([values for values in decoded if len(values)] or decoded)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _whole(values: NDArray[np.float64], path: Path) -> NDArray[np.int64]:
    """Numbers that are whole, as integers."""
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or (np.abs(values) > _MOST_WHOLE).any():
        wrong = values[~np.isfinite(values) | (values != np.rint(values))]
        example = wrong[0] if len(wrong) else values.max()
        raise DataError(
            f"The labels of {printable(str(path))} are numbers such as {example:g}; expected integers or strings.",
            hint="coatnet tells classes apart: put a quantity into ranges, and remove rows without a label.",
        )
    return values.astype(np.int64)


def _names(column: "pa.ChunkedArray", path: Path) -> NDArray[Any]:
    """Text or truth as names of classes; each distinct one is made once, however often it is there.

    Raises:
        DataError: one is longer than the name of a class may be.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = []
    for chunk in column.chunks:
        text = chunk.cast(pa.string()) if pa.types.is_boolean(chunk.type) else chunk
        coded = text if isinstance(text, pa.DictionaryArray) else text.dictionary_encode()
        longest = pc.max(pc.binary_length(coded.dictionary.cast(pa.large_binary()))).as_py() or 0
        if longest > _MOST_LABEL:
            raise DataError(
                f"A label of {printable(str(path))} has {longest:,} bytes; expected the name of a class.",
                hint="Say which column holds the labels with --label-column.",
            )
        names = np.array([class_name(name) for name in coded.dictionary.to_pylist()], dtype=object)
        parts.append(names[coded.indices.to_numpy()])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=object)


def without_unlabelled_test(values: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The label values of each split, less those of a test split whose labels are kept secret; and a note of it."""
    if "test" not in values or len(values) == 1 or not np.all(values["test"] == -1):
        return values, ()
    kept = {part: column for part, column in values.items() if part != "test"}
    return kept, ("The test split has no labels (all are -1) and is not used.",)


def encode_labels(
    values: Mapping[str, NDArray[Any]], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Class names and (samples,) int64 labels of every split; train decides which classes there are."""
    if not any(len(column) for column in values.values()):
        raise DataError("The table has no rows.", hint=LAYOUTS)
    reference = values.get("train", values.get("all"))
    if reference is None:
        reference = np.concatenate(list(values.values()))
    as_index = names is not None and reference.dtype.kind == "i"
    if names is None:
        distinct = sorted({str(value) for value in _distinct(reference)[0]})
        names = tuple(sorted(distinct, key=int) if all(re.fullmatch(r"-?\d+", text) for text in distinct) else distinct)
    label_of = {name: label for label, name in enumerate(names)}
    labels: dict[str, NDArray[np.int64]] = {}
    for part, column in values.items():
        distinct_values, inverse = _distinct(column)
        if as_index:
            wrong = [value for value in distinct_values if not 0 <= value < len(names)]
            if wrong:
                raise DataError(
                    f"Label {wrong[0]} is out of range: there are {len(names)} class names, for labels 0 to "
                    f"{len(names) - 1}.",
                    hint="Correct the labels or the list of class names.",
                )
            labels[part] = column.astype(np.int64)
            continue
        unknown = [str(value) for value in distinct_values if str(value) not in label_of]
        if unknown:
            raise DataError(
                f"Class {some(unknown)} of {part} is not known; known are {some(names)}.",
                hint="Train must have every class of val and test.",
            )
        table = np.array([label_of[str(value)] for value in distinct_values], dtype=np.int64)
        labels[part] = table[inverse] if len(column) else np.zeros(0, np.int64)
    return names, labels


def _distinct(column: NDArray[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The different values, sorted, and which of them each is."""
    if column.dtype.kind != "O":
        values, inverse = np.unique(column, return_inverse=True)
        return values.tolist(), inverse
    different = sorted(set(column))
    place = {value: index for index, value in enumerate(different)}
    return different, np.fromiter(map(place.__getitem__, column), np.int64, len(column))


def _table_source(
    paths: Sequence[Path], columns: "Sequence[pa.ChunkedArray]", class_names: Sequence[str], labels: NDArray[np.int64]
) -> Source:
    import pyarrow as pa

    in_split_folder = {path: split_of(path.parent.name) and not _SPLIT_FILE.fullmatch(path.stem) for path in paths}
    name_of = {path: f"{path.parent.name}/{path.name}" if in_split_folder[path] else path.name for path in paths}
    names = [
        f"{printable(name_of[path])}:{row}"
        for path, column in zip(paths, columns, strict=True)
        for row in range(len(column))
    ]
    kind = columns[0].type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if _is_text(kind):
        files = [
            path.parent / (cell or "")
            for path, column in zip(paths, columns, strict=True)
            for cell in column.to_pylist()
        ]
        return FileSource(class_names, labels, names, files)
    holds_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if pa.types.is_struct(kind):
        holds_bytes = {field.name for field in kind} >= {"bytes"} or {field.name for field in kind} >= {"path"}
    if not holds_bytes:
        raise DataError(
            f"The images of {printable(str(paths[0]))} are {kind}; expected the bytes of image files, or a struct of "
            "bytes and path.",
            hint="Say which column holds the images with --image-column; in Python it is image_column.",
        )
    arrow = [ArrowColumn(column.chunks, path.parent) for path, column in zip(paths, columns, strict=True)]
    return ArrowSource(class_names, labels, names, arrow)
