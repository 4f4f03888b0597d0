"""Where shards lie: a folder on disk, or an address such as s3://bucket/prefix; files are read in ranges. No torch.

fsspec is imported for addresses only; it is the extra `remote`.
"""

import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from coatnet.data.samples import printable
from coatnet.errors import DataError, MissingPartError, install_hint

# Far below the 1024 files that a process may have open by default on Linux, 256 on macOS.
_MOST_HANDLES = 64


class StoredFile(NamedTuple):
    """A file of a storage: its name below the root with `/`, its bytes, and a text that changes when it is replaced."""

    name: str
    size: int
    version: str


class Storage(ABC):
    """Files below one root, read in ranges by any thread and by forked processes.

    Attributes:
        root: the folder or address, as text.
        read_ahead: bytes worth fetching at once where a file is read from front to end.
    """

    root: str
    read_ahead: int

    @abstractmethod
    def files(self) -> dict[str, StoredFile]:
        """By name, the files of the root and of the folders in it, not deeper; hidden ones are left out.

        Raises:
            DataError: there is no such place.
        """

    @abstractmethod
    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length` of a file, fewer where it ends; `OSError` if they cannot be had."""


class LocalStorage(Storage):
    """A folder on disk. Files stay open for the next read, the last ones that were opened."""

    read_ahead = 64 << 10

    def __init__(self, folder: Path) -> None:
        self.root = os.fspath(folder)
        self._folder = folder
        self._handles: OrderedDict[str, _Handle] = OrderedDict()

    def files(self) -> dict[str, StoredFile]:
        """As `Storage.files`."""
        found: dict[str, StoredFile] = {}
        for path in (*self._folder.glob("*"), *self._folder.glob("*/*")):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
                status = path.stat()
                found[name] = StoredFile(name, status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")
        return found

    def read(self, name: str, offset: int, length: int) -> bytes:
        """As `Storage.read`."""
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = _Handle(self._folder / name)
            if len(self._handles) > _MOST_HANDLES:
                self._handles.popitem(last=False)
        return os.pread(handle.number, length, offset)


class _Handle:
    """An open file. It has no position, so threads and forked processes share it; it closes with its last user."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class RemoteStorage(Storage):
    """A prefix of an object store, through fsspec."""

    # A request to an object store costs tens of milliseconds: as long as some megabytes take to come.
    read_ahead = 8 << 20

    def __init__(self, address: str) -> None:
        self.root = address.rstrip("/")
        self._process = -1
        self._opened: Any = None

    def files(self) -> dict[str, StoredFile]:
        """As `Storage.files`."""
        file_system, prefix = self._connected()
        try:
            found = file_system.find(prefix, maxdepth=2, detail=True)
        except Exception as error:  # every kind of store has its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{printable(self.root)} cannot be listed: {reason}.",
                hint="Check the address, the network and your credentials for it.",
            ) from error
        files: dict[str, StoredFile] = {}
        for path, info in found.items():
            name = path.removeprefix(prefix).lstrip("/") or Path(path).name
            version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
            if info["type"] == "file" and not any(part.startswith(".") for part in name.split("/")):
                files[name] = StoredFile(name, int(info["size"]), str(version))
        return files

    def read(self, name: str, offset: int, length: int) -> bytes:
        """As `Storage.read`."""
        file_system, prefix = self._connected()
        try:
            return bytes(file_system.cat_file(f"{prefix}/{name}", start=offset, end=offset + length))
        except Exception as error:  # every kind of store has its own
            raise OSError(f"{self.root}/{name}: {' '.join(str(error).split()) or type(error).__name__}") from error

    def _connected(self) -> tuple[Any, str]:
        """The file system and the path in it; a forked process connects anew, as connections cannot be shared."""
        if self._process != os.getpid():
            self._opened = _connect(self.root)
            self._process = os.getpid()
        file_system, prefix = self._opened
        return file_system, prefix


def is_address(path: str) -> bool:
    """Whether it is an address such as s3://bucket/prefix and not a path of this machine."""
    return "://" in path


def address_of(path: str | Path) -> str | None:
    """The address that was given where a path is wanted, None for a path. `Path` makes one slash of the two."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?!/)(?=.)", str(path))  # one letter is a drive of Windows
    return f"{found[1]}://{str(path)[found.end() :]}" if found else None


def open_storage(path: str) -> Storage:
    """The storage of a folder or an address.

    Raises:
        MissingPartError: the package for such addresses is not installed.
        DataError: there are no such addresses.
    """
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    return RemoteStorage(path) if is_address(path) else LocalStorage(Path(path).expanduser())


def _connect(address: str) -> tuple[Any, str]:
    kind = address.split("://", 1)[0]
    hint = f"{install_hint('remote')}, which is enough for s3://"
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingPartError(f"Data at {kind}:// needs the extra 'remote', which is not installed.", hint) from error
    try:
        file_system, path = url_to_fs(address)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise MissingPartError(f"Data at {kind}:// needs the extra 'remote': {reason}.", hint) from error
    except ValueError as error:
        raise DataError(
            f"{printable(address)} is no address that is understood: {error}.", hint="Such as s3://bucket/prefix."
        ) from error
    return file_system, path.rstrip("/")
