"""The folder for what can be made or downloaded again: indexes, copies of remote images, named data sets. No torch."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path


def cache_folder(purpose: str) -> Path:
    """The place of a folder of ours below the user's cache folder; it may not be there yet.

    It is `$XDG_CACHE_HOME/coatnet` where that is set; else `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows and
    `~/.cache` elsewhere take the place of the variable. A user without a home, as in many containers, has it among the
    temporary files.
    """
    home = os.path.expanduser("~")
    if "XDG_CACHE_HOME" in os.environ:
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif home == "~":
        base = Path(tempfile.gettempdir())
    elif sys.platform == "darwin":
        base = Path(home, "Library", "Caches")
    elif sys.platform == "win32":
        base = Path(os.environ["LOCALAPPDATA"])
    else:
        base = Path(home, ".cache")
    return base / "coatnet" / purpose


def remember(path: Path, data: bytes) -> None:
    """Write a file into the cache, whole or not at all, even while another process writes the same one.

    That it cannot be written, on a full disk or in a home that is read only, costs the next start some time and is no
    error.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_bytes(data)
        unfinished.replace(path)
