"""What lies in a tar file, and where: nothing is ever unpacked. No torch."""

import io
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from coatnet.data.samples import printable
from coatnet.data.storage import Storage, StoredFile
from coatnet.errors import DataError

# Headers and long names are all that the tar reader itself reads; POSIX paths end at 4 KiB, so this is ample.
_MOST_HEADER = 1 << 20


class Member(NamedTuple):
    """A file in a tar file: its name, and where its bytes begin and how many they are."""

    name: str
    offset: int
    size: int


class ShardReader(io.RawIOBase):
    """A tar file of a storage as a seekable stream that fetches some bytes ahead.

    Args:
        storage: where it lies.
        file: which one.
    """

    def __init__(self, storage: Storage, file: StoredFile) -> None:
        self._storage, self._file = storage, file
        self._position = 0
        self._start, self._ahead = 0, b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to `offset` from the front; nothing else is needed."""
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"seek to {offset} from {whence}")
        self._position = offset
        return offset

    def tell(self) -> int:
        """The position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the end; more than a header may have are refused."""
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.HeaderError(f"a header of {size} bytes")
        data = self.peek(self._position, size)
        self._position += len(data)
        return data

    def peek(self, offset: int, size: int) -> bytes:
        """Bytes at a place, wherever the position is."""
        if not self._start <= offset <= offset + size <= self._start + len(self._ahead):
            length = max(size, self._storage.read_ahead)
            self._ahead = self._storage.read(self._file.name, offset, min(length, max(0, self._file.size - offset)))
            self._start = offset
        return self._ahead[offset - self._start : offset - self._start + size]


def members(reader: ShardReader, file: StoredFile) -> Iterator[Member]:
    """The files in a tar file, one after the other; folders are passed over.

    Raises:
        DataError: the tar file is damaged or cut off, or holds what no data set needs: links, devices, paths that lead
            out of the folder; it names the tar file and the member.
    """
    last = ""
    try:
        for member in _listed(reader, file):
            last = member.name
            yield member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise _failure(file, last, " ".join(str(error).split())) from error
    except OSError as error:
        raise DataError(f"{printable(file.name)} cannot be read: {error}.", hint="Is the place still there?") from error


def _listed(reader: ShardReader, file: StoredFile) -> Iterator[Member]:
    name = ""
    with tarfile.open(fileobj=reader, mode="r:") as tar:
        while (info := tar.next()) is not None:
            _check(info, file)
            name = info.name
            tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
            if info.isreg():
                yield Member(info.name, info.offset_data, info.size)
        end = tar.offset
    if reader.peek(end, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise _failure(file, name, "a damaged header or no end follows it")


def _check(info: tarfile.TarInfo, file: StoredFile) -> None:
    """Refuse a member that cannot belong to a data set."""
    parts = re.split(r"[/\\]", info.name)
    if info.name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", info.name) or ".." in parts or "\0" in info.name:
        problem = "its path leads out of the folder"
    elif info.issym() or info.islnk():
        problem = f"it is a link, to '{printable(info.linkname)}'"
    elif info.issparse() or not (info.isreg() or info.isdir()):
        problem = "it is neither a plain file nor a folder"
    elif info.size < 0 or info.offset_data + info.size > file.size:
        problem = f"it declares {info.size} bytes, more than there are: the tar file has {file.size}"
    else:
        return
    raise _failure(file, info.name, problem, at=True)


def _failure(file: StoredFile, member: str, problem: str, at: bool = False) -> DataError:
    place = (
        f"member '{printable(member)}'" if at else f"after member '{printable(member)}'" if member else "at its start"
    )
    return DataError(
        f"Shard '{printable(file.name)}', {place}: {problem}.", hint="Make or download this tar file again."
    )
