"""A stop asked for by a signal. The handler only notes it; the loop looks where it is safe to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequestedError(Exception):
    """Raised in the midst of a wait, so that a stop need not wait for the data."""


class StopSignal:
    """While entered, SIGINT and SIGTERM ask for a stop; a second SIGINT aborts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        if self._waiting:
            raise StopRequestedError

    def is_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self.asked

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A wait in which nothing is lost when it is broken off: a signal raises `StopRequestedError` in it."""
        if self.asked:
            raise StopRequestedError
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
