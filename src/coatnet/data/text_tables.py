"""Tables that are text: CSV with any usual separator and encoding, and lines of JSON. No torch."""

import codecs
import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from coatnet.data.samples import printable
from coatnet.errors import DataError

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl")
_SEPARATORS = ",\t;|"
# Lines that tell the separator.
_SAMPLED_LINES = 20
# A row is a path, a label and a little more; a file without ends of lines must not fill the memory.
_MOST_LINE = 1 << 20


class TextTable(NamedTuple):
    """The cells of a table.

    Attributes:
        first: the cells of the first line; of JSON lines, all keys in the order in which they come.
        rows: the number of its line, and the cells of each other one; all have as many as the first.
        num_stripped: how many cells had white space at their ends.
    """

    first: list[str]
    rows: list[tuple[int, list[str]]]
    num_stripped: int = 0


def read_text_table(path: Path) -> TextTable:
    """Read a table.

    Raises:
        DataError: it is no such text, or a row has more cells than the first line.
    """
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            return _from_json(path, file) if path.suffix.lower() == ".jsonl" else _from_csv(path, file)
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{printable(str(path))} cannot be read as CSV: {error}.", hint="Save it as UTF-8.") from error


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if utf16 else "utf-8-sig"


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """The lines of a file, none longer than a row can be."""
    number = 0
    while line := file.readline(_MOST_LINE):
        number += 1
        if len(line) >= _MOST_LINE:
            raise _bad(path, number, f"longer than {_MOST_LINE:,} characters", "Is this a table of images?")
        if "\0" in line:
            raise _bad(path, number, "a zero byte", "Save the table as text in UTF-8.")
        yield line


def _from_csv(path: Path, file: IO[str]) -> TextTable:
    lines = _lines(path, file)
    start = list(itertools.islice(lines, _SAMPLED_LINES))
    reader = csv.reader(itertools.chain(start, lines), delimiter=_separator(path, start), strict=True)
    raw = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    rows = [(line, [cell.strip() for cell in row]) for line, row in raw]
    num_stripped = sum(len(cell) != len(cell.strip()) for _, row in raw for cell in row)
    first = rows[0][1] if rows else []
    while first and not first[-1]:  # a comma at the end of the header
        first.pop()
    return TextTable(first, [(line, _fitted(path, line, row, len(first))) for line, row in rows[1:]], num_stripped)


def _separator(path: Path, start: list[str]) -> str:
    """What parts the cells: what is in the first lines equally often, and most often."""
    if path.suffix.lower() == ".tsv":
        return "\t"

    def fit(separator: str) -> tuple[bool, int]:
        rows = [row for row in csv.reader(start, delimiter=separator) if row]
        counts = [len(row) for row in rows]
        return min(counts, default=1) > 1 and len(set(counts)) == 1, min(counts, default=1)

    return max(_SEPARATORS, key=fit)


def _fitted(path: Path, line: int, row: list[str], num_cells: int) -> list[str]:
    """A row with as many cells as the first line: none at the end are empty ones."""
    if any(row[num_cells:]):
        raise _bad(
            path, line, f"{len(row)} cells, the first line has {num_cells}", 'Put a cell with a separator in it in "".'
        )
    return (row + [""] * (num_cells - len(row)))[:num_cells]


def _from_json(path: Path, file: IO[str]) -> TextTable:
    records: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(_lines(path, file), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _bad(
                    path, number, f"no JSON: {str(error) or 'nested too deep'}", "Write one object a line."
                ) from error
            if not isinstance(record, dict):
                raise _bad(path, number, f"{type(record).__name__}, expected an object", "Write one object a line.")
            records.append((number, record))
    keys = list(dict.fromkeys(key for _, record in records for key in record))
    return TextTable(keys, [(line, [_cell(path, line, record.get(key)) for key in keys]) for line, record in records])


def _cell(path: Path, line: int, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and len(value) == 1:
        return _cell(path, line, value[0])
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _bad(path: Path, line: int, problem: str, hint: str) -> DataError:
    return DataError(f"{printable(str(path))}, line {line}: {problem}.", hint)
