"""The page of a scan: what is wrong with a data set, with the pictures that show it. For people."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.data.images import decode
from coatnet.data.samples import Source
from coatnet.data.scan import Bin, Duplicates, Sample, Scan
from coatnet.pages.page import Picture, Section, Table, write_page
from coatnet.pages.plots import Bars, histograms, mosaic

NUM_PAIRS = 12
"""Groups of duplicates that are shown, each by two of its pictures."""
NUM_ROWS = 200
"""Rows of a table; --json lists everything."""
NUM_NAMED = 8
"""Members of a group that are named."""
_SIDE = 256  # a mosaic draws a picture in about 230 pixels
KINDS = {"file": "same file", "pixels": "same pixels", "alike": "look alike"}


def write_report(path: Path, scan: Scan, parts: Mapping[str, Source]) -> None:
    """Write the page of a scan, one file without network.

    Args:
        path: the HTML file.
        scan: what was found.
        parts: the sources by split, for the pictures.
    """
    with TemporaryDirectory() as folder:
        sections = _Sections(Path(folder), scan, parts).all()
        write_page(path, f"Scan of {scan.data}", [section for section in sections if not section.is_empty])


class _Sections:
    def __init__(self, folder: Path, scan: Scan, parts: Mapping[str, Source]) -> None:
        self.folder = folder
        self.scan = scan
        self.parts = parts
        self.index = {split: {name: at for at, name in enumerate(part.names)} for split, part in parts.items()}

    def all(self) -> list[Section]:
        """Every section, the suspects first."""
        groups = self.scan.duplicates
        across = [group for group in groups if group.across_splits]
        differ = [group for group in groups if group.labels_differ]
        rest = [group for group in groups if not group.across_splits and not group.labels_differ]
        return [
            self._summary(),
            self._unreadable(),
            self._duplicates("The same picture in several splits", across),
            self._duplicates("The same picture with several labels", differ),
            self._duplicates("Other duplicates", rest),
            self._classes(),
            self._sizes(),
            Section(title="Notes", bullets=self.scan.notes),
        ]

    def _summary(self) -> Section:
        problems = self.scan.problems
        counts = self.scan.counts
        return Section(
            title="What was found",
            headline="This needs a look" if problems else "Nothing is wrong as far as a scan can see",
            bullets=problems,
            facts={
                "images": f"{self.scan.images:,}",
                "splits": ", ".join(f"{split} {sum(classes.values()):,}" for split, classes in counts.items()),
                "classes": f"{len(next(iter(counts.values()))):,}",
                "imbalance": f"the largest class has {self.scan.imbalance:.1f} times the images of the smallest",
            },
        )

    def _unreadable(self) -> Section:
        found = self.scan.unreadable
        rows = [(one.name, one.split, one.label, one.code, one.detail) for one in found]
        columns = ("image", "split", "label", "code", "why")
        return Section(title="Images that cannot be read", tables=_tables(columns, rows, num_names=5))

    def _duplicates(self, title: str, groups: Sequence[Duplicates]) -> Section:
        if not groups:
            return Section(title=title)
        pairs = [sample for group in groups[:NUM_PAIRS] for sample in _telling_pair(group)]
        rows = [(KINDS[group.kind], str(len(group.samples)), _named(group)) for group in groups]
        return Section(
            title=title,
            pictures=[self._mosaic(title, pairs, "Two of each group, side by side")],
            tables=_tables(("kind", "images", "which"), rows, num_names=3),
        )

    def _classes(self) -> Section:
        counts = self.scan.counts
        first = next(iter(counts.values()))
        labels = sorted(first, key=lambda label: first[label])
        rows = [(label, *(f"{classes[label]:,}" for classes in counts.values())) for label in labels]
        return Section(title="Classes, the smallest first", tables=_tables(("class", *counts), rows))

    def _sizes(self) -> Section:
        if not self.scan.sizes:
            return Section(title="Sizes")
        sides = [_bars("shorter side, pixels", self.scan.shorter_sides, _side)]
        aspects = [_bars("width : height", self.scan.aspects, _aspect)]
        path = self.folder / "sizes.png"
        histograms(path, sides + aspects)
        pictures = [Picture(path=path, alt="histograms of the shorter side and of width over height")]
        if self.scan.num_sizes > 1:
            pictures.append(self._mosaic("The smallest", self.scan.smallest))
            pictures.append(self._mosaic("The largest", self.scan.largest))
        rows = [(f"{one.width} x {one.height}", f"{one.images:,}") for one in self.scan.sizes]
        return Section(
            title="Sizes",
            text=[f"Different sizes: {self.scan.num_sizes:,}; the most common ones are listed."],
            pictures=pictures,
            tables=_tables(("width x height", "images"), rows),
        )

    def _mosaic(self, title: str, samples: Sequence[Sample], caption: str = "") -> Picture:
        path = self.folder / f"{title}.png"
        captions = [f"{one.name}\n{one.split}: {one.label}\n{one.width} x {one.height}" for one in samples]
        mosaic(path, [self._image(one) for one in samples], captions, title)
        return Picture(path=path, alt=f"{title}: images with name, split, label and size", caption=caption)

    def _image(self, sample: Sample) -> NDArray[np.uint8]:
        source = self.parts[sample.split]
        image = Image.fromarray(decode(source.read(self.index[sample.split][sample.name])))
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(image)


def _telling_pair(group: Duplicates) -> tuple[Sample, Sample]:
    """The first one, and the first that has another split, or else another label, where there is one."""
    first, *others = group.samples
    return first, min(others, key=lambda one: (one.split == first.split, one.label == first.label))


def _named(group: Duplicates) -> str:
    named = "; ".join(f"{one.name} ({one.split}: {one.label})" for one in group.samples[:NUM_NAMED])
    return named + (f"; and {len(group.samples) - NUM_NAMED} more" if len(group.samples) > NUM_NAMED else "")


def _tables(columns: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> list[Table]:
    more = f"The first {NUM_ROWS} of {len(rows):,}; coatnet scan --json lists all" if len(rows) > NUM_ROWS else ""
    return [Table(columns=columns, rows=rows[:NUM_ROWS], caption=more, num_names=num_names)] if rows else []


def _bars(title: str, bins: Sequence[Bin], name: Callable[[Bin], str]) -> Bars:
    return Bars(title=title, labels=[name(one) for one in bins], counts=[one.images for one in bins])


def _side(one: Bin) -> str:
    assert one.high is not None
    return f"{one.low:g} to {one.high - 1:g}"


def _aspect(one: Bin) -> str:
    if one.high is None:
        return f"{one.low:.2f} and more"
    return f"{one.low:.2f} to {one.high:.2f}"
