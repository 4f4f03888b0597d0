"""What goes wrong, as clients see it: a status, a code to act on, one line to read (RFC 9457, problem+json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any

from coatnet.data.images import ImageError

MEDIA_TYPE = "application/problem+json"
NO_SNIFFING = (b"x-content-type-options", b"nosniff")
"""Of every answer: a browser is not to take what it gets for something else."""
RETRY_SECONDS = 1
"""The queue holds about a second's work, and a worker that died is back in seconds."""


@dataclass(frozen=True)
class Problem:
    """Why a request has no answer. Neither paths nor tracebacks belong into it."""

    status: int
    """HTTP status."""
    code: str
    """Short name, documented and stable."""
    detail: str
    """One line."""

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` where trying again helps, `WWW-Authenticate` where a token is wanted."""
        if self.status in (429, 503):
            return {"retry-after": str(RETRY_SECONDS)}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def as_dict(self) -> dict[str, Any]:
        """The members of RFC 9457, the code, and `error`, where clients of the inference protocol look."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "error": self.detail,
        }

    @cached_property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """All headers of the answer, as ASGI and h11 take them; kept, as the body is."""
        named = {"content-type": MEDIA_TYPE, "content-length": str(len(self.body)), **self.headers}
        return [*((name.encode(), value.encode()) for name, value in named.items()), NO_SNIFFING]

    @cached_property
    def body(self) -> bytes:
        """As JSON; kept, since a full queue is said many times a second."""
        return json.dumps(self.as_dict()).encode()


class ProblemError(Exception):
    """Raised where a request cannot be answered."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


QUEUE_FULL = Problem(429, "queue_full", "More images wait than can be computed in time.")
ONE_AT_A_TIME = Problem(429, "one_at_a_time", "Another explanation is being made.")
MEMORY_FULL = Problem(429, "memory_full", "The bodies of other requests fill the memory set aside for them.")
LOADING = Problem(503, "loading", "The classifier is being loaded.")
DRAINING = Problem(503, "draining", "The server is about to stop.")
WORKER_DIED = Problem(503, "worker_died", "The process that computes died and is started anew.")
EXPIRED = Problem(504, "expired", "The answer was not there in time.")
FAILED = Problem(500, "failed", "The network has no finite answer for this image.")
BUG = Problem(500, "bug", "This is a bug of the server; its log says more.")
GONE = Problem(408, "gone", "The client left before its answer.")
UNAUTHORIZED = Problem(401, "unauthorized", "Give the token: Authorization: Bearer TOKEN.")
SLOW = Problem(408, "slow", "The request came in too slowly.")
MALFORMED = Problem(400, "malformed", "This is not HTTP/1.1.")

IMAGE_STATUS = {"too_large_bytes": 413, "too_many_pixels": 413, "unsupported_format": 415}
"""Statuses of the codes of `data.images`; of the others, 400."""


def of_image(error: ImageError) -> Problem:
    """An image that the gate refuses."""
    return Problem(IMAGE_STATUS.get(error.code, 400), error.code, error.detail)
