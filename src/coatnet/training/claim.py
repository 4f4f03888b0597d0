"""Folders in which one process at a time writes: who holds one, and what a holder that is gone leaves. No torch.

The lock is the system's: it ends with the process that holds it, however that ends. Where a file system knows no locks,
filelock takes a file in their place, and sees by the process's number whether its maker still lives.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from coatnet.errors import ConfigError

LOCK, HOLDER = ".lock", ".holder"
"""Files in a folder that was ever held: the lock, and who holds it."""
GRACE = 1.0
"""Seconds to wait for a holder: processes of one that was just killed may hold its lock for an instant."""


@contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder, which is made if it is not there. A thread may hold it several times, one in the other.

    Folders that were made for this and are empty at the end are removed.

    Args:
        folder: where a run, a search or a study is to be written.
        wait: for another holder, however long it takes.

    Raises:
        ConfigError: another process or thread holds it.
    """
    made = _make(folder)
    lock = FileLock(folder / LOCK, timeout=GRACE, is_singleton=True)
    try:
        lock.acquire(timeout=-1 if wait else GRACE)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by {_holder(folder)}", "wait until it ends, stop it, or choose another folder"
        ) from None
    try:
        if lock.lock_counter == 1:
            _sign(folder)
        yield
    finally:
        if lock.lock_counter == 1:
            (folder / HOLDER).unlink(missing_ok=True)
            if made and is_empty(folder):
                (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for one in made:
            if is_empty(one):
                _remove(one)


def check_unheld(folder: Path) -> None:
    """See that no other process writes in a folder; one that was never held is not touched.

    Raises:
        ConfigError: another process or thread holds it.
    """
    if (folder / LOCK).exists():
        with held(folder):
            return


def is_empty(folder: Path) -> bool:
    """Whether nothing but the traces of holders is in a folder."""
    return folder.is_dir() and all(entry.name in (LOCK, HOLDER) for entry in folder.iterdir())


def _make(folder: Path) -> list[Path]:
    """Make the folder and those above it; the ones that were not there, the innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is a file, not a folder for a run", "choose another folder") from None
        return []
    return missing


def _remove(folder: Path) -> None:
    """Remove an empty folder, unless another process has begun to hold it."""
    try:
        folder.rmdir()
    except OSError:
        return


def _sign(folder: Path) -> None:
    told = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    (folder / HOLDER).write_text(json.dumps(told), encoding="utf-8")


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {told['process']} on {told['machine']}, since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # not written yet, or gone with its holder
        return "another process"
