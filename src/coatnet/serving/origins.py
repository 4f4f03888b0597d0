"""Pages of other origins that may ask: answers a browser's preflight, and names the origin in each answer (CORS)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from coatnet.serving.problems import MEDIA_TYPE, Problem

ASKED_HEADERS = ("Authorization", "Content-Type", "X-Timeout-Seconds", "Inference-Header-Content-Length")
TOLD_HEADERS = ("Retry-After", "Server-Timing", "Inference-Header-Content-Length")


def for_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, open to pages of some origins.

    Args:
        app: what answers, token and all: a preflight has no token and is answered before it.
        origins: as browsers name them; `*` is all of them; none leaves the application as it is.
    """
    return _Origins(app, origins, ("GET", "POST"), ASKED_HEADERS, expose_headers=TOLD_HEADERS) if origins else app


class _Origins(CORSMiddleware):
    """Starlette's, with the refusals of this server."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Whether a page may ask as it wants to."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        detail = f"{bytes(response.body).decode()}: a page may ask by GET and POST if --origins names its origin."
        problem = Problem(response.status_code, "origin_not_allowed", detail)
        return Response(problem.body, problem.status, problem.headers, MEDIA_TYPE)
