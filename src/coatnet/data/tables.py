"""Tables of images: Parquet (ours and Hugging Face's) and CSV. No torch; pyarrow is imported when it is needed."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coatnet.data.folders import LAYOUTS, Found
from coatnet.data.samples import ArrowColumn, ArrowSource, FileSource, Source, printable, some
from coatnet.data.split_names import SPLIT_NAMES
from coatnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# train.parquet, and shards as Hugging Face names them: train-00000-of-00002.parquet, with a hash in older ones.
_SPLIT_FILE = re.compile(r"(train|val|valid|validation|test)(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?", re.IGNORECASE)


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or of `data/` in it, where Hugging Face's repositories keep them."""
    for place in (folder, folder / "data"):
        files = sorted(path for path in place.glob("*.parquet") if not path.name.startswith("."))
        if files:
            return files
    return []


def read_parquet(files: Sequence[Path], image_column: str, label_column: str) -> Found:
    """Read Parquet files whose names say their split; files of other names are one unsplit set.

    Raises:
        DataError: a file that is damaged, a column that is missing or of a wrong type, a label without a class.
    """
    grouped: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in files:
        matched = _SPLIT_FILE.fullmatch(path.stem)
        if matched and len(files) > 1:
            grouped.setdefault(SPLIT_NAMES[matched[1].lower()], []).append(path)
        else:
            others.append(path)
    notes = [f"File '{printable(path.name)}' beside the splits is not used." for path in others] if grouped else []
    if not grouped:
        grouped = {"all": others}
    for paths in grouped.values():
        _check_shards(paths)
    tables = {
        part: [_read_table(path, image_column, label_column) for path in paths] for part, paths in grouped.items()
    }
    first = next(iter(grouped.values()))[0]
    names = _stored_class_names(next(iter(tables.values()))[0].schema, label_column, first.parent)
    values = {part: label_values([table[label_column] for table in parts], first) for part, parts in tables.items()}
    values, unlabelled = without_unlabelled_test(values)
    notes += unlabelled
    class_names, labels = encode_labels(values, names)
    parts = {
        part: _table_source(grouped[part], [table[image_column] for table in tables[part]], class_names, labels[part])
        for part in values
    }
    return Found(parts, tuple(notes))


def read_csv(path: Path, image_column: str, label_column: str) -> Found:
    """Read a CSV file with a header: a path (relative to the file), a label and optionally a split per row.

    Raises:
        DataError: not UTF-8, a missing column or cell, a split or label that is not known, files that are not there.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            header = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{printable(str(path))} cannot be read as CSV: {error}.", hint="Save it as UTF-8.") from error
    if image_column == "image" and "image" not in header and "path" in header:
        image_column = "path"  # the usual header of such files; our default name is that of Parquet's column
    for option, column in (("image_column", image_column), ("label_column", label_column)):
        _check_column(option, column, header, path)
    parts: dict[str, dict[str, str]] = {}
    part_of: dict[str, str] = {}
    for line, row in rows:
        image, label, split = row[image_column], row[label_column], row.get("split", "all") if "split" in row else "all"
        if not image or not label or not split:
            raise DataError(f"{printable(str(path))}, line {line}: an empty cell.", hint="Fill it or remove the line.")
        if split != "all" and split.lower() not in SPLIT_NAMES:
            raise DataError(f"{printable(str(path))}, line {line}: split '{split}' is not train, val or test.")
        part = SPLIT_NAMES.get(split.lower(), "all")
        if part_of.setdefault(image, part) != part or parts.setdefault(part, {}).setdefault(image, label) != label:
            raise DataError(
                f"{printable(str(path))}, line {line}: '{printable(image)}' has two labels or splits.",
                hint="Keep one line for each image.",
            )
    if not parts:
        raise DataError(f"{printable(str(path))} has no rows below its header.", hint=LAYOUTS)
    first = [image for images in parts.values() for image in images][:20]
    if not any((path.parent / image).exists() for image in first):
        raise DataError(
            f"None of the first {len(first)} files of {printable(str(path))} exists, such as '{printable(first[0])}'.",
            hint=f"Paths are relative to the folder of the CSV file, {printable(str(path.parent))}.",
        )
    for part, images in parts.items():
        parts[part] = dict(sorted(images.items()))
    class_names, labels = encode_labels({part: np.array(list(images.values())) for part, images in parts.items()}, None)
    sources: dict[str, Source] = {
        part: FileSource(class_names, labels[part], [printable(i) for i in images], [path.parent / i for i in images])
        for part, images in parts.items()
    }
    repeated = len(rows) - sum(len(images) for images in parts.values())
    notes = (f"{repeated} rows of {printable(path.name)} repeat an image and are not used.",) if repeated else ()
    return Found(sources, notes)


def _check_column(option: str, column: str, columns: Sequence[str], path: Path) -> None:
    if column not in columns:
        raise DataError(
            f"{printable(str(path))} has no column '{column}'; it has {some(columns, 20) or 'none'}.",
            hint=f"Say which column to use with {option}.",
        )


def _check_shards(paths: Sequence[Path]) -> None:
    matched = [_SPLIT_FILE.fullmatch(path.stem) for path in paths]
    expected = {int(match[3]) for match in matched if match and match[3]}
    if expected and (len(expected) > 1 or len(paths) != max(expected)):
        raise DataError(
            f"{len(paths)} shards of {max(expected)} found, beginning with '{printable(paths[0].name)}'.",
            hint="Download the missing ones.",
        )


def _read_table(path: Path, image_column: str, label_column: str) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            for option, column in (("image_column", image_column), ("label_column", label_column)):
                _check_column(option, column, columns, path)
            return file.read(columns=[image_column, label_column])
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{printable(str(path))} cannot be read as Parquet: {reason}", hint="Make or download the file again."
        ) from error


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
    """The label column of one split as int64 or as strings."""
    import pyarrow as pa

    decoded = []
    for column in columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if column.null_count:
            raise DataError(f"{column.null_count} rows of {printable(str(path))} have no label.", hint="Remove them.")
        if pa.types.is_integer(kind):
            decoded.append(column.cast(pa.int64()).to_numpy())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            decoded.append(np.array(column.cast(pa.large_string()).to_pylist(), dtype=np.str_))
        else:
            raise DataError(f"The labels of {printable(str(path))} are {kind}; expected integers or strings.")
    if len({values.dtype.kind for values in decoded if len(values)}) > 1:
        raise DataError(f"The labels beginning with {printable(str(path))} are integers in one file, text in another.")
    return np.concatenate([values for values in decoded if len(values)] or decoded)


def without_unlabelled_test(values: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The label values of each split, less those of a test split whose labels are kept secret; and a note of it."""
    if "test" not in values or len(values) == 1 or not (values["test"] == -1).all():
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
        distinct = [str(value) for value in np.unique(reference)]
        names = tuple(sorted(distinct, key=int) if all(re.fullmatch(r"-?\d+", text) for text in distinct) else distinct)
    label_of = {name: label for label, name in enumerate(names)}
    labels: dict[str, NDArray[np.int64]] = {}
    for part, column in values.items():
        distinct_values, inverse = np.unique(column, return_inverse=True)
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


def _table_source(
    paths: Sequence[Path], columns: "Sequence[pa.ChunkedArray]", class_names: Sequence[str], labels: NDArray[np.int64]
) -> Source:
    import pyarrow as pa

    names = [
        f"{printable(path.name)}:{row}"
        for path, column in zip(paths, columns, strict=True)
        for row in range(len(column))
    ]
    kind = columns[0].type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
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
            hint="Say which column holds the images with image_column.",
        )
    arrow = [ArrowColumn(column.chunks, path.parent) for path, column in zip(paths, columns, strict=True)]
    return ArrowSource(class_names, labels, names, arrow)
