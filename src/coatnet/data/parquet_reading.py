"""Two columns of a Parquet file, read so that no file, however it was made, takes more memory than it may. No torch.

A few kilobytes of Parquet can stand for gigabytes: by compression, by a dictionary with one long value for a million
rows, or by runs of nothing. So the declared sizes are compared with the size of the file before anything is
decompressed, and what repeats stays a dictionary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coatnet.data.samples import printable
from coatnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Images are compressed already, so a table of them is hardly smaller than they are; flat pictures as BMP shrink more.
_MOST_EXPANSION = 20
_ALWAYS_ALLOWED = 64 << 20
# A row of a table of images is at least a path or the smallest image, of 26 bytes, and a label.
_LEAST_ROW_BYTES = 8
_ROWS_ALWAYS_ALLOWED = 1_000_000
# What one array of values addresses; a larger group of rows is read without a dictionary.
_MOST_DICTIONARY = 1 << 30


def read_schema(path: Path) -> "pa.Schema":
    """The columns of a file and their types.

    Raises:
        DataError: it is no Parquet file.
    """
    import pyarrow.parquet as pq

    with _explained(path), pq.ParquetFile(path) as file:
        return file.schema_arrow


def read_columns(path: Path, columns: Sequence[str]) -> "pa.Table":
    """Some columns of a file, group by group.

    Raises:
        DataError: it is no Parquet file, or stands for more bytes or rows than its size allows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _explained(path), pq.ParquetFile(path) as file:
        leaves = _leaves(file, columns)
        _check_declared(path, file, leaves)
        coded = _dictionaries(file, leaves)
    groups, num_bytes = [], 0
    with _explained(path), pq.ParquetFile(path, read_dictionary=coded) as file:
        for number in range(file.metadata.num_row_groups):
            groups.append(file.read_row_group(number, columns=list(columns)))
            num_bytes += groups[-1].nbytes
            if num_bytes > _allowed(path):
                raise _too_much(path, f"its columns grow to more than {num_bytes:,} bytes")
        return pa.concat_tables(groups) if groups else file.schema_arrow.empty_table().select(list(columns))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of pyarrow as errors of the data."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{printable(str(path))} cannot be read as Parquet: {reason}", hint="Make or download the file again."
        ) from error


def _leaves(file: "pq.ParquetFile", columns: Sequence[str]) -> list[int]:
    """The stored columns that make up some columns: of a struct there are several."""
    paths = [file.schema.column(index).path for index in range(len(file.schema))]
    return [index for index, path in enumerate(paths) if path.split(".")[0] in columns or path in columns]


def _check_declared(path: Path, file: "pq.ParquetFile", leaves: Sequence[int]) -> None:
    size = path.stat().st_size
    rows = file.metadata.num_rows
    if rows > max(_ROWS_ALWAYS_ALLOWED, size // _LEAST_ROW_BYTES):
        raise _too_much(path, f"it declares {rows:,} rows")
    declared = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        declared += sum(group.column(leaf).total_uncompressed_size for leaf in leaves)
    if declared > _allowed(path):
        raise _too_much(path, f"its columns are {declared:,} bytes when they are unpacked")


def _dictionaries(file: "pq.ParquetFile", leaves: Sequence[int]) -> list[str]:
    """The stored columns of bytes or text that are read as a dictionary."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    largest = {
        leaf: max((group.column(leaf).total_uncompressed_size for group in groups), default=0) for leaf in leaves
    }
    columns = [file.schema.column(leaf) for leaf in leaves if largest[leaf] < _MOST_DICTIONARY]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _allowed(path: Path) -> int:
    return max(_ALWAYS_ALLOWED, _MOST_EXPANSION * path.stat().st_size)


def _too_much(path: Path, what: str) -> DataError:
    return DataError(
        f"{printable(str(path))} has {path.stat().st_size:,} bytes, but {what}: no table of images does.",
        hint="Make or download the file again, and do not open it if you do not know who made it.",
    )
