"""The folder for what can be made or downloaded again: indexes, copies of remote images, named data sets. No torch."""

import os
import sys
from pathlib import Path


def cache_folder(purpose: str) -> Path:
    """A folder of ours below the user's cache folder, made if it is not there.

    It is `$XDG_CACHE_HOME/coatnet` where that is set; else `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows and
    `~/.cache` elsewhere take the place of the variable.
    """
    if "XDG_CACHE_HOME" in os.environ:
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ["LOCALAPPDATA"])
    else:
        base = Path.home() / ".cache"
    folder = base / "coatnet" / purpose
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, even while another process writes the same one."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)
