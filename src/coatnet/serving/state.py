"""What all endpoints share: the supervisor, the limits, and how problems are documented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header

from coatnet.serving.asking import SHORTEST_TIMEOUT
from coatnet.serving.batcher import Batcher
from coatnet.serving.config import ServeConfig
from coatnet.serving.problems import DRAINING, LOADING, MEDIA_TYPE, ProblemError
from coatnet.serving.supervisor import Supervisor
from coatnet.serving.worker import Ready

Timeout = Annotated[
    float | None,
    Header(
        alias="X-Timeout-Seconds",
        ge=SHORTEST_TIMEOUT,
        allow_inf_nan=False,
        description="After so many seconds the answer is of no use; no more than the server's own timeout.",
    ),
]


@dataclass
class State:
    """A server, as its endpoints see it."""

    config: ServeConfig
    supervisor: Supervisor
    is_draining: bool = False
    """Whether the server is about to stop."""

    @property
    def batcher(self) -> Batcher:
        """Where images wait."""
        return self.supervisor.batcher

    @property
    def model(self) -> Ready | None:
        """What is served, None while the first is loaded."""
        return self.supervisor.model

    def timeout(self, asked: float | None) -> float:
        """Seconds that an answer may take."""
        return min(asked or self.config.timeout, self.config.timeout)

    def check_ready(self) -> None:
        """See that requests are taken.

        Raises:
            ProblemError: they are not.
        """
        if self.is_draining:
            raise ProblemError(DRAINING)
        if not self.supervisor.is_ready:
            raise ProblemError(LOADING)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How FastAPI documents problems."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "A problem", "content": content} for status in (*statuses, 401, 422)}
