"""What happens to a request before the application sees it: who may ask, whether there is room, how much is read."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import (
    MEDIA_TYPE,
    MEMORY_FULL,
    QUEUE_FULL,
    UNAUTHORIZED,
    Problem,
    ProblemError,
)
from coatnet.serving.state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

BUFFERED_BYTES = 512_000_000
"""Bodies of all requests that are held at once; beyond that another waits no better than with a full queue."""
FORM_BYTES = 65_536
"""What a form or JSON adds to the images in it: names, boundaries, brackets."""
UNREAD_BYTES = 65_536
"""A refused body up to this is read to its end, so that the connection can be kept; after a longer one it is closed."""

LINGER_SECONDS = 1.0
"""Between the answer to a body that is not read and the end of the connection: closed at once, with bytes unread, the
system would send a reset, which can overtake the answer."""

ENDPOINTS = {
    re.compile(r"/predict"): "predict",
    re.compile(r"/explain"): "explain",
    re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer"): "infer",
    re.compile(r"/(healthz|readyz)|/v2/health/(live|ready)"): "health",
    re.compile(r"/metrics"): "metrics",
    re.compile(r"/|/page/[^/]+"): "page",
    re.compile(r"/model|/v2(/models/[^/]+.*)?"): "model",
}
ASKING = ("predict", "explain", "infer")
"""Endpoints that need the worker."""
OPEN = ("health", "page")
"""Endpoints that need no token: probes have none, and the page must load to ask for it."""


class Admission:
    """The outermost layer of the application.

    Args:
        app: what answers requests that are let in; gets their bodies whole.
        state: the limits, and whether there is room.
    """

    def __init__(self, app: Application, state: State) -> None:
        self._app = app
        self._state = state
        self._token = state.config.token.encode()
        self._held_bytes = 0
        self._metrics = state.supervisor.metrics
        self.num_asking = 0
        """Requests that were let in and are not answered yet."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        request = _Request(scope, receive, send, self._metrics)
        try:
            self._check(request)
        except ProblemError as error:
            await request.refuse(error.problem)
            return
        if request.endpoint not in ASKING or scope["method"] != "POST":
            await self._app(scope, receive, request.send)
            return
        self.num_asking += 1
        try:
            await self._admit(request)
        finally:
            self.num_asking -= 1
            self._held_bytes -= request.num_bytes

    def count(self, problem: Problem) -> None:
        """A problem that was answered before there was a request."""
        self._metrics.answers.labels("unknown", problem.status).inc()
        self._metrics.problems.labels(problem.code).inc()

    def _check(self, request: _Request) -> None:
        """What can be said by the headers alone."""
        given = request.headers.get(b"authorization", b"")
        if self._token and request.endpoint not in OPEN and not hmac.compare_digest(given, b"Bearer " + self._token):
            raise ProblemError(UNAUTHORIZED)
        if request.endpoint not in ASKING or request.scope["method"] != "POST":
            return
        self._state.check_ready()
        if not self._state.batcher.has_room():
            raise ProblemError(QUEUE_FULL)
        if request.headers.get(b"content-encoding", b"identity") != b"identity":
            raise ProblemError(
                Problem(415, "unsupported_encoding", "Send the body as it is, without Content-Encoding.")
            )
        self._check_length(request, request.content_length)

    def _check_length(self, request: _Request, num_bytes: int) -> None:
        limit = self._state.config.max_bytes
        if request.endpoint == "infer":
            limit = limit * 4 // 3 + FORM_BYTES  # base64
        elif request.headers.get(b"content-type", b"").startswith(b"multipart/"):
            limit += FORM_BYTES
        if num_bytes > limit:
            raise ProblemError(Problem(413, "too_large_bytes", f"The body is above {limit} bytes."))
        if self._held_bytes + num_bytes - request.num_bytes > BUFFERED_BYTES:
            raise ProblemError(MEMORY_FULL)

    async def _admit(self, request: _Request) -> None:
        chunks: list[bytes] = []
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                return
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            try:
                self._check_length(request, request.num_bytes + len(chunk))
            except ProblemError as error:
                await request.refuse(error.problem)
                return
            chunks.append(chunk)
            request.num_bytes += len(chunk)
            self._held_bytes += len(chunk)
        request.is_whole = True
        body = b"".join(chunks)
        chunks.clear()

        async def replay() -> Message:
            nonlocal body
            if request.is_replayed:
                message = await request.receive()
                request.is_gone = message["type"] == "http.disconnect"
                return message
            request.is_replayed = True
            message, body = {"type": "http.request", "body": body, "more_body": False}, b""
            return message

        await self._app(request.scope, replay, request.send)


class _Request:
    """One request, and how its answer is sent."""

    def __init__(self, scope: Message, receive: Receive, send: Send, metrics: Metrics) -> None:
        self.scope, self.receive, self._send, self._metrics = scope, receive, send, metrics
        self._since = time.monotonic()
        self.headers = dict(scope["headers"])
        path = scope["path"]
        self.endpoint = next((name for pattern, name in ENDPOINTS.items() if pattern.fullmatch(path)), "other")
        self.num_bytes = 0
        self.is_whole = False
        self.is_replayed = False
        self.is_gone = False

    @property
    def content_length(self) -> int:
        """What the headers say of it; h11 has seen that it is a number."""
        return int(self.headers.get(b"content-length", b"0"))

    @property
    def _is_cut_off(self) -> bool:
        """Whether the rest of the body is too long to be read for nothing."""
        is_long = b"transfer-encoding" in self.headers or self.content_length > UNREAD_BYTES
        return is_long and not self.is_whole

    async def send(self, message: Message) -> None:
        """Pass on what the application sends; count it first, so that whoever has the answer finds it counted."""
        if message["type"] == "http.response.start" and not self.is_gone:
            self._metrics.answers.labels(self.endpoint, message["status"]).inc()
            self._metrics.answer_seconds.labels(self.endpoint).observe(time.monotonic() - self._since)
            headers = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            if self._is_cut_off:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        if message["type"] == "http.response.body" and self._is_cut_off:
            await self._send({**message, "more_body": True})
            await asyncio.sleep(LINGER_SECONDS)
            message = {**message, "body": b""}
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""
        self._metrics.problems.labels(problem.code).inc()
        body = problem.body
        headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": body})
