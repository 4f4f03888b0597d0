"""The one place that tells a user of an error: a line that says what, a line what to do about it, and the exit code."""

from __future__ import annotations

import difflib
import errno
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cyclopts.exceptions import CycloptsError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError
from cyclopts.exceptions import ValidationError as FlagError
from pydantic import ValidationError

from coatnet.errors import CoatnetError, ConfigError, DataError, MissingPartError, ResourceError
from coatnet.terminal import visible

BUG, INTERRUPTED = 1, 130


class Told(NamedTuple):
    """What a user is told."""

    message: str
    hint: str
    exit_code: int


def exit_code(action: Callable[[], object], argv: list[str], debug: bool = False) -> int:
    """Do something; print what goes wrong to standard error, in two lines.

    Args:
        action: what to do.
        argv: the words after `coatnet`, to speak of them as they were typed.
        debug: print the traceback before.

    Returns:
        0, or the exit code of the error.
    """
    try:
        with _readable():
            action()
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:
        told = tell(error, argv)
        trace = traceback.format_exc() if debug else ""
        sys.stderr.write(visible(f"{trace}coatnet: {_one_line(told.message)}\n  hint: {_one_line(told.hint)}\n"))
        return told.exit_code
    return 0


@contextmanager
def _readable() -> Iterator[None]:
    """A terminal that lacks a letter gets its escape, and a warning is one line that no terminal obeys."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"coatnet: warning: {visible(_one_line(str(message)))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def tell(error: BaseException, argv: list[str]) -> Told:
    """Message, hint and exit code of an error; an error that no user could cause is a bug."""
    help_hint = (
        f"see `coatnet {argv[0]} --help`" if argv and argv[0].replace(" ", "").isalpha() else "see `coatnet --help`"
    )
    if isinstance(error, CoatnetError):
        return Told(error.message, error.hint or help_hint, error.exit_code)
    if isinstance(error, CycloptsError):
        return Told(*_usage(error, argv, help_hint), ConfigError.exit_code)
    if isinstance(error, ValidationError):
        return Told(_flag_problem(error, argv), help_hint, ConfigError.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Told("interrupted", "a run that saved a checkpoint goes on with `coatnet resume`", INTERRUPTED)
    if _out_of_memory(error):
        return Told("out of memory", "take a smaller --batch-size, model or image size", ResourceError.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return Told(f"no space left on the disk{where}", "make room, or choose another disk", ResourceError.exit_code)
    if isinstance(error, OSError) and error.filename:
        return Told(f"{error.filename}: {error.strerror}", "check the path and its permissions", DataError.exit_code)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("coatnet"):
        return Told(f"{error.name} is not installed", "install coatnet again with pip", MissingPartError.exit_code)
    hint = "run it again with --debug for the traceback, and report it with that"
    return Told(f"this is a bug: {type(error).__name__}: {error}", hint, BUG)


def _usage(error: CycloptsError, argv: list[str], help_hint: str) -> tuple[str, str]:
    """What is wrong with the words after `coatnet`, and what to do."""
    if isinstance(error, UnknownCommandError):
        return _unknown_verb(argv[0])
    if isinstance(error, FlagError) and isinstance(error.__cause__, ValidationError):
        return _flag_problem(error.__cause__, argv), help_hint
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        return f"{name} needs a value" if name.startswith("-") else f"{name} is missing", help_hint
    if isinstance(error, UnusedCliTokensError):
        return f"too many arguments: {' '.join(error.unused_tokens or ())}", help_hint
    return str(error), help_hint


def _unknown_verb(word: str) -> tuple[str, str]:
    from coatnet.cli import VERBS

    near = difflib.get_close_matches(word, VERBS, n=1)
    hint = f"did you mean `coatnet {near[0]}`?" if near else f"the verbs are {', '.join(VERBS)}"
    return f"there is no verb {word!r}", hint


def _flag_problem(error: ValidationError, argv: list[str]) -> str:
    """The first problem of a config made from flags, in the words of the command line."""
    problem = error.errors(include_url=False)[0]
    # A tag of a union, such as constrained-int, is no flag.
    names = [part for part in problem["loc"] if isinstance(part, str) and part.isidentifier()]
    if problem["type"] != "value_error":
        flag = f"--{names[-1].replace('_', '-')}: " if names else ""
        return f"{flag}{problem['msg']}, got {problem['input']!r:.60}"
    message = problem["msg"].removeprefix("Value error, ")
    if names:
        return f"--{names[-1].replace('_', '-')}: {message}"
    given = {word.split("=")[0] for word in argv}

    def as_flag(match: re.Match[str]) -> str:
        flag = "--" + match[0].replace("_", "-")
        return flag if "_" in match[0] or flag in given else match[0]

    return re.sub(r"\b[a-z][a-z0-9_]+\b", as_flag, message)


def _out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # not imported for this: without torch it was not torch's memory
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # What torch raises on a CPU is a bare RuntimeError with these words.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith("...") else line.removesuffix(".")
