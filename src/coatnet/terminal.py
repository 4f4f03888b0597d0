"""What people read on a terminal: text that it shows and does not obey, in lines that break between words. No torch.

File names, class names and error messages may hold anything: an escape sequence that rewrites the screen, a bell, a
mark that turns the direction of writing, half of a surrogate pair. Each such letter is shown as its escape.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text


def visible(text: str) -> str:
    """The same text, of which what no terminal should get is shown as its escape, as \\x1b. Line feeds stay."""
    if text.isprintable():
        return text
    return "".join(letter if _is_shown(letter) else ascii(letter)[1:-1] for letter in text)


def _is_shown(letter: str) -> bool:
    return letter.isprintable() or letter == "\n" or unicodedata.category(letter) == "Zs"


class Terminal(Console):
    """rich's console, where everything that is printed is `visible`, styles aside."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's: a text that is measured and laid out as it will be shown."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's: the pieces of a renderable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Told as any other error; rich would end the process here."""
        raise

    def print_whole(self, line: str | Text) -> None:
        """A line that stays one, to be copied: a path, a command."""
        self.print(line, markup=False, highlight=False, soft_wrap=True)

    def print_wrapped(self, line: str | Text) -> None:
        """A sentence: on a terminal it breaks between words, in a file it is one line."""
        text = self.render_str(line, markup=False, highlight=False) if isinstance(line, str) else line
        for part in text.divide(_breaks(text.plain, self.width)) if self.is_terminal else [text]:
            part.rstrip()
            self.print_whole(part)


def _breaks(text: str, width: int) -> list[int]:
    """Where to break a line between words; a word that is wider than the terminal, such as a path, stays whole."""
    breaks, start = [], 0
    for word in re.finditer(r"\S+\s*", text):
        if word.start() > start and cell_len(text[start : word.end()].rstrip()) > width:
            breaks.append(word.start())
            start = word.start()
    return breaks
