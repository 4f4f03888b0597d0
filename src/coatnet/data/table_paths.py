"""Where the files are that the cells of a table name, however the table writes them. No torch."""

import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from coatnet.data.listing import IMAGE_SUFFIXES, look_into
from coatnet.data.samples import printable, some
from coatnet.errors import DataError

# Files that tell how the cells are meant.
_SAMPLED = 20
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class Located(NamedTuple):
    """Files of a table.

    Attributes:
        base: what they are relative to.
        names: the path of each below it, in its shortest form with `/`, so that one file has one name.
        notes: one line each for what the user should know.
    """

    base: Path
    names: list[str]
    notes: list[str]


def locate(path: Path, cells: Sequence[str], root: str | None, suffix: str | None) -> Located:
    """Find the files that the cells of a table name.

    Args:
        path: of the table.
        cells: what it says.
        root: the folder they are relative to, itself relative to the folder of the table; None for that folder.
        suffix: what they lack at the end; None to find that out.

    Raises:
        DataError: addresses, or none of the first files is there.
    """
    address = next((cell for cell in cells if _ADDRESS.match(cell)), None)
    if address:
        raise DataError(
            f"{printable(str(path))} names addresses, such as '{printable(address)}'; coatnet does not download.",
            hint="Download them into a folder, and write their paths into the table.",
        )
    base = path.parent / os.path.expanduser(root) if root else path.parent
    first = list(dict.fromkeys(cells))[:_SAMPLED]
    for change, note in _changes(first, suffix):
        names = [change(cell) for cell in first]
        if sum(os.path.exists(base / name) for name in names) >= (len(names) if note else 1):
            located = [change(cell) for cell in cells]
            notes = [note.format(base=printable(str(base)))] if note else []
            return Located(base, located, notes + _missing(base, located))
    raise DataError(
        f"None of the first {len(first)} files of {printable(str(path))} exists, such as '{printable(first[0])}'.",
        hint=_suggestion(base, first[0], root, suffix),
    )


def _changes(first: Sequence[str], suffix: str | None) -> Iterator[tuple[Callable[[str], str], str]]:
    """Ways to read the cells, the plainest first, and what to say if it is that one."""
    lacking = suffix is None and not any(cell.lower().endswith(IMAGE_SUFFIXES) for cell in first)
    suffixes = ("", *IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)) if lacking else (suffix or "",)
    depth = max(len(_parts(cell)) for cell in first)
    for dropped, slashes, ending in itertools.product(range(depth), (False, True), suffixes):
        notes = []
        if dropped:
            gone = "/".join(_parts(first[0])[:dropped])
            notes.append(f"Paths that begin as '{printable(gone)}' are taken from {{base}}, where the files are.")
        if ending and suffix is None:
            notes.append(f"The names of the images lack {ending}, which is added.")
        yield _change(dropped, slashes or bool(dropped), ending), " ".join(notes)


def _change(dropped: int, slashes: bool, ending: str) -> Callable[[str], str]:
    def changed(cell: str) -> str:
        name = cell.replace("\\", "/") if slashes else cell
        name = "/".join(_parts(name)[dropped:]) if dropped else name
        return posixpath.normpath(name + ending)

    return changed


def _parts(cell: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", cell)] if _DRIVE.match(cell) else cell.replace("\\", "/").split("/")


def _missing(base: Path, names: Sequence[str]) -> list[str]:
    """How many files are not there; each folder is listed once, since a table may name a million."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in dict.fromkeys(names):
        folder, _, file = name.rpartition("/")
        if folder not in present:
            try:
                present[folder] = set(os.listdir(base / folder if folder or not name.startswith("/") else "/"))
            except (OSError, ValueError):
                present[folder] = set()
        if file not in present[folder] and not os.path.exists(base / name):  # another case or Unicode form may do
            missing.append(name)
    if not missing:
        return []
    are = "file is not there and counts" if len(missing) == 1 else "files are not there and count"
    return [f"{len(missing):,} {are} as unreadable: {some(missing)}."]


def _suggestion(base: Path, cell: str, root: str | None, suffix: str | None) -> str:
    """Where the first file is, if a folder beside the table holds it; else what paths are relative to."""
    try:
        folders = look_into(base)[0] if base.is_dir() else []
    except DataError:
        folders = []
    cell = cell.replace("\\", "/")
    for folder, ending in itertools.product(folders, ("", *IMAGE_SUFFIXES)):
        if os.path.exists(base / folder / f"{cell}{suffix or ''}{ending}"):
            place = posixpath.join(root or "", folder)
            more = f" --image-suffix {ending}" if ending else ""
            return f"'{printable(f'{place}/{cell}{ending}')}' is there: add --image-root {printable(place)}{more}"
    return (
        f"Paths are relative to {printable(str(base))}; --image-root names another folder, --image-suffix what they "
        "lack at the end."
    )
