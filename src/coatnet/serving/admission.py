"""What happens to a request before the application sees it: who may ask, whether there is room, how much is read."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import h11

from coatnet.serving.bodies import HeldBodies, client_of
from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import (
    NO_SNIFFING,
    QUEUE_FULL,
    UNAUTHORIZED,
    Problem,
    ProblemError,
)
from coatnet.serving.state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[bytes, bytes]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

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
    re.compile(r"/(healthz|readyz)|/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready"): "health",
    re.compile(r"/metrics"): "metrics",
    re.compile(r"/|/page/[^/]+"): "page",
    re.compile(r"/model|/v2(/models/[^/]+.*)?"): "model",
}
ASKING = ("predict", "explain", "infer")
"""Endpoints that need the worker."""
OPEN = ("health", "page")
"""Endpoints that need no token: probes have none, and the page must load to ask for it."""


SPECIAL = {b"connection", b"expect", b"transfer-encoding", b"origin"}
"""Headers by which more is to be done than to answer."""


def content_length(headers: Headers) -> int:
    """What the headers say of it; h11 has seen that it is a number."""
    return int(headers.get(b"content-length", b"0"))


def endpoint_of(path: str) -> str:
    """What a path is counted as."""
    return next((name for pattern, name in ENDPOINTS.items() if pattern.fullmatch(path)), "other")


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
        self._bodies = HeldBodies()
        self._metrics = state.supervisor.metrics
        self.num_asking = 0
        """Requests that were let in and are not answered yet."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        request = _Request(scope, receive, send, self._metrics)
        is_asking = request.endpoint in ASKING and scope["method"] == "POST"
        try:
            self._check(request.endpoint, scope["method"], request.headers)
            if is_asking:
                self._bodies.check(request.client, content_length(request.headers))
        except ProblemError as error:
            await request.refuse(error.problem)
            return
        if not is_asking:
            await self._app(scope, receive, request.send)
            return
        self.num_asking += 1
        try:
            await self._admit(request)
        finally:
            self.num_asking -= 1
            self._bodies.hold(request.client, -request.num_bytes)

    def count(self, problem: Problem, endpoint: str = "unknown") -> None:
        """A problem that is answered before the application sees the request."""
        self._metrics.answers.labels(endpoint, problem.status).inc()
        self._metrics.problems.labels(problem.code).inc()

    def refusal(self, request: h11.Request) -> Problem | None:
        """What is said at once while the queue is full, before a task is made for the request: with a queue that is
        full most of the time, refusals are most of what the server does beside computing.

        Returns:
            A problem, counted already; None to leave the request to `__call__`, as everything is that needs more than
            an answer: a long body, an Expect, a connection to be closed.
        """
        headers = dict(request.headers)
        is_simple = request.http_version == b"1.1" and not SPECIAL & headers.keys()
        if self._state.batcher.has_room() or not is_simple or content_length(headers) > UNREAD_BYTES:
            return None
        endpoint = endpoint_of(request.target.partition(b"?")[0].decode("latin1"))
        try:
            self._check(endpoint, request.method.decode("latin1"), headers)
        except ProblemError as error:
            self.count(error.problem, endpoint)
            self._metrics.answer_seconds.labels(endpoint).observe(0)
            return error.problem
        return None

    def _check(self, endpoint: str, method: str, headers: Headers) -> None:
        """What can be said by the headers alone."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        is_known = scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)
        if self._token and endpoint not in OPEN and not is_known:
            raise ProblemError(UNAUTHORIZED)
        if endpoint not in ASKING or method != "POST":
            return
        self._state.check_ready()
        if not self._state.batcher.has_room():
            raise ProblemError(QUEUE_FULL)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise ProblemError(
                Problem(415, "unsupported_encoding", "Send the body as it is, without Content-Encoding.")
            )
        self._check_length(endpoint, headers, content_length(headers))

    def _check_length(self, endpoint: str, headers: Headers, num_bytes: int) -> None:
        """See that a body may be so long."""
        limit = self._state.config.max_bytes
        if endpoint == "infer":
            limit = limit * 4 // 3 + FORM_BYTES  # base64
        elif headers.get(b"content-type", b"").startswith(b"multipart/"):
            limit += FORM_BYTES
        if num_bytes > limit:
            raise ProblemError(Problem(413, "too_large_bytes", f"The body is above {limit} bytes."))

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
                self._check_length(request.endpoint, request.headers, request.num_bytes + len(chunk))
                self._bodies.check(request.client, len(chunk))
            except ProblemError as error:
                await request.refuse(error.problem)
                return
            chunks.append(chunk)
            request.num_bytes += len(chunk)
            self._bodies.hold(request.client, len(chunk))
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
        self.endpoint = endpoint_of(scope["path"])
        self.client = client_of((scope["client"] or ("", 0))[0])
        self.num_bytes = 0
        self.is_whole = False
        self.is_replayed = False
        self.is_gone = False

    @property
    def _is_cut_off(self) -> bool:
        """Whether the rest of the body is too long to be read for nothing."""
        is_long = b"transfer-encoding" in self.headers or content_length(self.headers) > UNREAD_BYTES
        return is_long and not self.is_whole

    async def send(self, message: Message) -> None:
        """Pass on what the application sends; count it first, so that whoever has the answer finds it counted."""
        if message["type"] == "http.response.start" and not self.is_gone:
            self._metrics.answers.labels(self.endpoint, message["status"]).inc()
            self._metrics.answer_seconds.labels(self.endpoint).observe(time.monotonic() - self._since)
            headers = list(message.get("headers", []))
            if NO_SNIFFING not in headers:
                headers.append(NO_SNIFFING)
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
        await self.send({"type": "http.response.start", "status": problem.status, "headers": problem.raw_headers})
        await self.send({"type": "http.response.body", "body": problem.body})
