"""One HTML file that needs nothing else: text, facts, tables, commands and pictures, for people.

Everything given is text and is escaped. The file holds its pictures and its style; it has no script, and its content
security policy forbids the browser to load anything from anywhere.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text: names, set to the left, then numbers, set to the right.

    Args:
        columns: the headings, N of them.
        rows: N texts each.
        caption: what the table shows.
        num_names: how many columns hold names.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    num_names: int = 1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file, copied into the page.

    Args:
        path: the file.
        alt: what is to be seen, for those who cannot see it.
        caption: the text below, or nothing.
    """

    path: Path
    alt: str
    caption: str = ""

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode("ascii")

    @property
    def is_wide(self) -> bool:
        """Whether it is more than twice as wide as high, as panels side by side are: they need all the width there is,
        and more than a phone has."""
        from PIL import Image

        with Image.open(self.path) as image:
            return image.width > 2 * image.height


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it, in the order of the fields; what is empty is left out."""

    title: str
    headline: str = ""
    """One large line."""
    text: Sequence[str] = ()
    """Paragraphs."""
    bullets: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Names and values, side by side."""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[str] = ()
    """Lines to type, in one block."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands below the heading."""
        return not any(value for name, value in vars(self).items() if name != "title")


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write one HTML file.

    Args:
        path: the file; its folder is made.
        title: the heading of the page and the name of its tab.
        sections: in order.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("coatnet.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(title=title, sections=sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", errors="backslashreplace")  # a file name may hold bytes that are no text
