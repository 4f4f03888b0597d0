"""Whatever a name or a message holds, a terminal shows it and does not obey it."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from coatnet.cli import main
from coatnet.cli.errors import exit_code
from coatnet.cli.printing import new_table
from coatnet.errors import DataError
from coatnet.terminal import Terminal, visible

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\u2066\udcffc\x08\x00\x85\u2028d"
SHOWN = r"a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\u2066\udcffc\x08\x00\x85\u2028d"


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible(SHOWN) == SHOWN
    assert visible("größe\n東京 \u00a0“x” 🦊") == "größe\n東京 \u00a0“x” 🦊"


def cells(text: str) -> Table:
    table = new_table("title", "column")
    table.add_row(text)
    return table


@pytest.mark.parametrize("make", [str, Text, Text.assemble, cells], ids=["str", "Text", "assembled", "table"])
@pytest.mark.parametrize("how", ["print_whole", "print_wrapped", "print"])
def test_everything_that_is_printed_is_shown(make: object, how: str) -> None:
    if make is cells and how != "print":
        pytest.skip("a table is printed by print")
    file = io.StringIO()
    getattr(Terminal(file=file, width=200, color_system=None, force_terminal=True), how)(make(HOSTILE))  # type: ignore[operator]
    assert file.getvalue().replace("\n", " ").isprintable()
    assert r"\x1b]0;title" in file.getvalue()
    assert r"\u202eb\u2066\udcffc" in file.getvalue()


def test_styles_are_not_shown_as_text() -> None:
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system="standard").print_whole(Text("bold", "bold"))
    assert file.getvalue() == "\x1b[1mbold\x1b[0m\n"


def test_sentences_break_between_words_and_only_on_a_terminal() -> None:
    words = "A sentence that is longer than this terminal is wide, with /a/path/that/is/longer/than/it/too and an end."
    broken, whole = io.StringIO(), io.StringIO()
    Terminal(file=broken, width=30, force_terminal=True, color_system=None).print_wrapped(words)
    assert broken.getvalue().split() == words.split()
    assert len(broken.getvalue().splitlines()) > 3
    Terminal(file=whole, width=30).print_wrapped(words)
    assert whole.getvalue() == f"{words}\n"


@pytest.mark.parametrize("debug", [False, True])
def test_errors_are_shown(capsys: pytest.CaptureFixture[str], debug: bool) -> None:
    def fail() -> None:
        raise DataError(f"x {HOSTILE}", HOSTILE)

    assert exit_code(fail, ["scan"], debug) == 3
    said = capsys.readouterr().err
    assert said.replace("\n", " ").isprintable()
    assert r"\x1b]0;title\x07" in said


@pytest.mark.parametrize(
    "words",
    [[HOSTILE], ["scan", HOSTILE], ["train", "digits", f"--{HOSTILE}"],
     ["predict", HOSTILE, HOSTILE], ["resume", HOSTILE], ["models", HOSTILE], ["train", "digits", "--model", HOSTILE]],
)  # fmt: skip
def test_what_is_typed_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.replace("\x00", "") for word in words]) in (2, 3, 4)
    said = capsys.readouterr().err
    assert said.replace("\n", " ").isprintable(), said
    assert "this is a bug" not in said


def test_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:  # as `warnings.showwarning` does, which pytest keeps for itself
        sys.stderr.write(warnings.formatwarning(f"{HOSTILE}\nmore", UserWarning, "file.py", 1))

    assert exit_code(warn, []) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"coatnet: warning: {SHOWN[:-13]}")  # what splits lines became a space
    assert said.endswith(" more\n")
    assert said[:-1].isprintable()


def test_names_of_any_bytes_print_where_the_terminal_knows_only_ascii(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in (b"caf\xe9", "größe".encode(), b"\x1b[31mred"):
        folder = os.fsencode(tmp_path / "data") + b"/" + name
        os.mkdir(folder)
        Path(os.fsdecode(folder), "x.png").write_bytes(b"no image")
    words = [sys.executable, "-m", "coatnet", "scan", "data", "--report", "x.html"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(words, env=environment, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert rb"\x1b[31mred" in done.stdout
