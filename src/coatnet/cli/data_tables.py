"""Data sets in tables: what a scan found, what was packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from coatnet.cli.printing import MOST_CLASSES, WORST_CLASSES, new_table, print_lines, print_sentences, print_some
from coatnet.data.samples import printable

if TYPE_CHECKING:
    from coatnet.data.packing import Packed
    from coatnet.data.scan import Scan, Unreadable


def show_scan(scan: Scan) -> None:
    """What a scan counted, and what it found wrong."""
    parts = ", ".join(f"{split} {sum(classes.values()):,}" for split, classes in scan.counts.items())
    print_lines(Text(f"{scan.data}: {scan.images:,} images; {parts}", "bold"), "", _count_table(scan), "")
    sizes = ", ".join(f"{one.width} x {one.height} ({one.images:,})" for one in scan.sizes[:5])
    print_sentences(f"sizes: {scan.num_sizes:,}; most common {sizes}" if sizes else "sizes: none, no image can be read")
    print_sentences(
        f"largest class: {scan.imbalance:.1f} times the smallest", *(f"note: {note}" for note in scan.notes)
    )
    print_lines("", Text("\n".join(scan.problems) or "Nothing is wrong as far as a scan can see.", "bold"))
    print_some("unreadable", [_unreadable(one) for one in scan.unreadable])
    groups = [
        " = ".join(f"{one.name} ({one.split}: {one.label})" for one in group.samples) for group in scan.duplicates
    ]
    print_some("duplicates", groups)


def show_packed(packed: Packed) -> None:
    """What was packed, and what was not."""
    folder = printable(str(packed.folder))
    size = f"{packed.num_bytes / 1e6:,.1f} MB in {packed.num_shards} shards"
    print_lines(f"{packed.num_images} images: {size}", f"shards  {folder}", *packed.notes)
    print_some("unreadable, which are not packed", packed.unreadable)


def _unreadable(one: Unreadable) -> str:
    return f"{one.name} ({one.split}: {one.label}): {one.code}: {one.detail}"


def _count_table(scan: Scan) -> Table:
    first = next(iter(scan.counts.values()))
    labels, title = list(first), "by class"
    if len(labels) > MOST_CLASSES:
        title = f"the {WORST_CLASSES} smallest of {len(labels)} classes"
        labels = sorted(labels, key=lambda label: first[label])[:WORST_CLASSES]
    table = new_table(title, "class")
    for split in scan.counts:
        table.add_column(split, justify="right")
    for label in labels:
        table.add_row(Text(label), *(f"{classes[label]:,}" for classes in scan.counts.values()))
    return table
