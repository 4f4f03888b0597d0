"""A full disk, told by what found no room on it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coatnet.errors import ResourceError


@contextmanager
def room_for(what: str, run: Path) -> Iterator[None]:
    """Tell a disk, a quota or a file size that is used up as a `ResourceError`.

    Args:
        what: is written in this context.
        run: folder of the run, which can go on once there is room.

    Raises:
        ResourceError: there was no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ResourceError(
            f"no room for {what}: {error.strerror}", f"free some space, then: coatnet resume {run}"
        ) from None
