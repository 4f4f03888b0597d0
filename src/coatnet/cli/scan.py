"""`coatnet scan`."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import Progress

from coatnet.cli.data_tables import show_scan
from coatnet.cli.printing import print_lines, show_json, show_path
from coatnet.data.outside import is_inside, outside
from coatnet.data.samples import printable
from coatnet.data.scan import Scan
from coatnet.data.scan import scan as look
from coatnet.data.scan_report import write_report
from coatnet.data.sources import DataConfig, Found, find_parts
from coatnet.errors import ConfigError, DataError
from coatnet.terminal import Terminal


def scan(  # noqa: PLR0913 (flags)
    data: str,
    /,
    *,
    report: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
    image_column: str = "image",
    label_column: str = "label",
    image_root: str | None = None,
    image_suffix: str | None = None,
) -> None:
    """Look at a data set before anything is trained on it: unreadable images, duplicates, labels, sizes.

    Args:
        data: what `coatnet train` takes.
        report: HTML file of the report; default: runs/scan- and the name of the data, with a number if that is taken.
        overwrite: replace the file that --report names.
        json: print one object instead of tables; the report is then written only if --report names it.
        strict: exit with 3 when something is wrong, not only when there is nothing to look at.
        image_column: column of a Parquet or CSV file that holds the images or their paths.
        label_column: column of a Parquet or CSV file that holds the labels.
        image_root: folder that the paths of a CSV file are relative to, itself relative to the file.
        image_suffix: what the paths of a CSV file lack at the end, as .jpg.
    """
    page = _page(data, report, overwrite, json)
    found = find_parts(
        DataConfig(
            path=data,
            image_column=image_column,
            label_column=label_column,
            image_root=image_root,
            image_suffix=image_suffix,
        )
    )
    result = _look(data, found)
    if page is not None:
        write_report(page, result, found.parts)
    show_json(result.as_dict()) if json else show_scan(result)
    if page is not None and not json:
        show_path("report", page)
    elif not json:
        print_lines("report  none: the current folder lies in the data; --report names a file elsewhere")
    if strict and result.problems:
        raise DataError(f"{printable(data)}: {' '.join(result.problems)}", "repair the data, or leave out --strict")


def _page(data: str, report: Path | None, overwrite: bool, json: bool) -> Path | None:
    """Where the page goes, known to be free before a long look begins."""
    if report is None:
        if overwrite:
            raise ConfigError("--overwrite needs --report, the file to replace")
        page = None if json else _default_page(data)
        return None if page is None or is_inside(page, data) else page
    report = report.expanduser()
    blocked = next((path for path in report.absolute().parents if path.exists() and not path.is_dir()), None)
    if blocked or report.is_dir():
        what = f"{printable(str(blocked))} is a file" if blocked else "is a folder"
        raise ConfigError(f"--report {printable(str(report))}: {what}", "choose another file")
    if report.exists() and not overwrite:
        raise ConfigError(f"--report {printable(str(report))} exists", "choose another file, or add --overwrite")
    return outside(report, data, "--report")


def _default_page(data: str) -> Path:
    """A new file below runs/, named after the data."""
    base = Path("runs") / f"scan-{Path(os.path.realpath(os.path.expanduser(data))).stem or 'data'}.html"
    names = itertools.chain([base], (base.with_stem(f"{base.stem}-{count}") for count in itertools.count(2)))
    return next(path for path in names if not path.exists())


def _look(data: str, found: Found) -> Scan:
    """Look, with a bar on standard error where that is a terminal."""
    console = Terminal(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("looking at images", total=sum(map(len, found.parts.values())))
        return look(printable(data), found, lambda count: progress.advance(task, count))
