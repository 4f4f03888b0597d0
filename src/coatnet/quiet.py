"""Ignore warnings for a while, even while other threads do the same.

`warnings.catch_warnings` alone is not safe with threads: the second to enter saves the first one's filters, and puts
them back for good. So everything here that ignores warnings does it through this one place.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeAlias

_Filter: TypeAlias = tuple[str, type[Warning]]


class _Ignored:
    """The filters that threads want now, and the undoing of what is in force."""

    lock = threading.Lock()
    wanted: ClassVar[Counter[_Filter]] = Counter()
    catcher: ClassVar[warnings.catch_warnings[None] | None] = None


@contextmanager
def ignore_warnings(module: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore the warnings of some modules, in all threads, until the `with` ends.

    Args:
        module: a regular expression that the start of the module's name matches; default: every module.
        category: of the warnings.
    """
    wanted = (module, category)
    _change(wanted, 1)
    try:
        yield
    finally:
        _change(wanted, -1)


def _change(wanted: _Filter, by: int) -> None:
    with _Ignored.lock:
        before = set(_Ignored.wanted)
        _Ignored.wanted[wanted] += by
        _Ignored.wanted = +_Ignored.wanted  # without those that nobody wants any more
        if set(_Ignored.wanted) == before:
            return
        if _Ignored.catcher is not None:
            _Ignored.catcher.__exit__(None, None, None)
            _Ignored.catcher = None
        if _Ignored.wanted:
            _Ignored.catcher = warnings.catch_warnings()
            _Ignored.catcher.__enter__()
            for module, category in _Ignored.wanted:
                warnings.filterwarnings("ignore", module=module, category=category)
