"""How the verbs print: lines and tables for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from coatnet.data.samples import printable
from coatnet.terminal import Terminal, visible

MOST_NAMES = 20
"""Names in a list, such as unreadable images; JSON has them all."""
MOST_CLASSES, WORST_CLASSES = 50, 20
"""Up to 50 classes are all listed, a screenful or two; of more, the worst 20."""


def show_json(value: Any) -> None:
    """One JSON value in one line."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def show_path(what: str, path: Path) -> None:
    """Where something was written."""
    print_lines("", f"{what}  {printable(str(path))}")


def print_lines(*lines: str | Text | Table) -> None:
    """Lines and tables one below the other; a path or a command stays one line, to be copied."""
    console = Terminal()
    for line in lines:
        if isinstance(line, Table):
            console.print(line, markup=False, highlight=False)
        else:
            console.print_whole(line)


def print_sentences(*lines: str | Text) -> None:
    """Sentences one below the other, broken between words where they are longer than a terminal is wide."""
    console = Terminal()
    for line in lines:
        console.print_wrapped(line)


def print_now(line: str) -> None:
    """A line without style, told as soon as it is known."""
    sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


def print_some(title: str, lines: Sequence[str]) -> None:
    """The first `MOST_NAMES` of some lines below their number; nothing if there are none."""
    if lines:
        more = [f"  and {len(lines) - MOST_NAMES} more"] if len(lines) > MOST_NAMES else []
        heading = Text(f"{title}: {len(lines)}", "bold")
        print_lines("", heading, *(Text(f"  {line}") for line in lines[:MOST_NAMES]), *more)


def new_table(title: str, *columns: str) -> Table:
    """An empty table without frames, whose columns fold what is too long for the terminal."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in columns:
        table.add_column(heading, overflow="fold")
    return table


def percent(fraction: float) -> str:
    """0.9876 as "98.8 %"."""
    return f"{100 * fraction:.1f} %"


def interval(bounds: tuple[float, float]) -> str:
    """Two fractions as "97.8 to 99.7 %"."""
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then both hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
