"""HTTP/1.1 as uvicorn speaks it, with what it lacks: a deadline for receiving a request, and errors as problem+json."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from coatnet.serving.problems import MALFORMED, SLOW, Problem

RECEIVE_SECONDS = 8.0
"""For a request; each byte of it buys a little more, but never more than this from now on, so that a body that came
fast and then stalls is given up as soon as one that never came. Who drips is closed before 10 s are over."""
SLOWEST_BYTES_PER_SECOND = 32 * 1024
"""A phone in a poor place uploads at twice that: 0.5 Mbit/s."""
FIRST_READ_BYTES = 64 * 1024
"""Read at once of a new request: a photograph that was made small for the web mostly comes in one piece."""
READ_BYTES = 32 * 1024
"""Read at once of the rest: a body that is too long is read at most two pieces beyond its limit."""


class DeadlineProtocol(H11Protocol, asyncio.BufferedProtocol):
    """One connection. Without a deadline some hundred clients that send a byte a second have the server for themselves.

    Args:
        count: told of each problem that is answered here, before the application sees the request.
        received: told how many bytes came.
        refusal: of a request, what is answered here so that the application never sees it.
    """

    _buffer = memoryview(bytearray(FIRST_READ_BYTES))  # of all connections: what is in it is copied at once

    def __init__(
        self,
        *args: Any,
        count: Callable[[Problem], None],
        received: Callable[[int], None],
        refusal: Callable[[h11.Request], Problem | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._next_event, self.conn.next_event = self.conn.next_event, self._admitted  # type: ignore[method-assign]
        self._refusal = refusal
        self._count = count
        self._received = received
        self._timer: asyncio.TimerHandle | None = None
        self._end = 0.0
        self._num_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that sends nothing at all is as slow as one that drips."""
        super().connection_made(transport)
        self._start()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio puts what it reads."""
        return self._buffer if self.conn.their_state is h11.IDLE else self._buffer[:READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """So much is there."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self._timer is None:
            self._start()
        self._num_bytes += len(data)
        self._end = min(self._end + len(data) / SLOWEST_BYTES_PER_SECOND, self.loop.time() + RECEIVE_SECONDS)
        self._received(len(data))
        super().data_received(data)
        if not self._is_receiving():
            self._stop()
            if self.conn.our_state is h11.IDLE and self.timeout_keep_alive_task is None:
                # The rest of a body that was refused: uvicorn stopped its clock for these bytes and will not start it.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        elif self.conn.our_state is h11.SEND_BODY:  # refused, and the rest is too long to be read for nothing
            self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more to wait for."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What h11 cannot read."""
        self._refuse(MALFORMED)

    def _admitted(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event; not a request that is refused at once, of which uvicorn passes over all that follows."""
        event = self._next_event()
        if not isinstance(event, h11.Request):
            return event
        _check_framing(event)
        event = _in_origin_form(event)
        if problem := self._refusal(event):
            self._answer(problem)
            return self._next_event()
        return event

    def _is_receiving(self) -> bool:
        """Whether a part of a request is here, and another part is not. An idle connection is uvicorn's to close."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _start(self) -> None:
        self._num_bytes = 0
        self._end = self.loop.time() + RECEIVE_SECONDS
        self._timer = self.loop.call_at(self._end, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self.loop.time() < self._end:
            self._timer = self.loop.call_at(self._end, self._look)
        elif self._num_bytes:
            self._refuse(SLOW)
        else:  # a browser's connection in reserve, which an answer without a question would confuse
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless an answer has begun already, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            self._count(problem)
            self._answer(problem, (b"connection", b"close"))
        self.transport.close()

    def _answer(self, problem: Problem, *headers: tuple[bytes, bytes]) -> None:
        response = h11.Response(
            status_code=problem.status,
            headers=[*self.server_state.default_headers, *problem.raw_headers, *headers],
            reason=HTTPStatus(problem.status).phrase,
        )
        events: tuple[h11.Event, ...] = (response, h11.Data(problem.body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))


def _check_framing(request: h11.Request) -> None:
    """See that a request is of HTTP/1, which the greeting of HTTP/2 is not, and has one length: with two, a proxy and a
    server could differ on where it ends, and the rest of one client's request be taken for another's (RFC 9112, 6.3).

    Raises:
        h11.RemoteProtocolError: it is not so, which h11 lets pass.
    """
    if not request.http_version.startswith(b"1."):
        raise h11.RemoteProtocolError("not HTTP/1")
    if {b"transfer-encoding", b"content-length"} <= {name for name, _ in request.headers}:
        raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")


def _in_origin_form(request: h11.Request) -> h11.Request:
    """With the path alone as target where a client names the whole address, as it would to a proxy; a server must take
    both (RFC 9112, 3.2.2)."""
    scheme, found, rest = request.target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return request
    path = rest[len(re.split(rb"[/?]", rest, maxsplit=1)[0]) :]
    target = path if path.startswith(b"/") else b"/" + path
    return h11.Request(method=request.method, target=target, headers=request.headers, http_version=request.http_version)
