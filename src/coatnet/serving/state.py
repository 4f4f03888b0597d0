"""What all endpoints share: the supervisor, the limits, and how problems are documented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header

from coatnet.serving.asking import SHORTEST_TIMEOUT
from coatnet.serving.batcher import Batcher
from coatnet.serving.config import LONGEST_TIMEOUT, ServeConfig
from coatnet.serving.explainer import Explainer
from coatnet.serving.messages import Ready
from coatnet.serving.problems import DRAINING, LOADING, MEDIA_TYPE, ProblemError
from coatnet.serving.supervisor import Supervisor

Timeout = Annotated[
    float,
    Header(
        alias="X-Timeout-Seconds",
        ge=SHORTEST_TIMEOUT,
        le=LONGEST_TIMEOUT,
        description="After so many seconds the answer is of no use; no more than the server's own timeout.",
    ),
]


@dataclass
class State:
    """A server, as its endpoints see it."""

    config: ServeConfig
    supervisor: Supervisor
    explainer: Explainer
    is_draining: bool = False
    """Whether the server is about to stop."""
    is_explaining: bool = False
    """Whether an explanation waits or is made: there is one at a time, so that they do not crowd out predictions."""

    @property
    def can_explain(self) -> bool:
        """Whether explanations are offered, and to be had of what is served."""
        return self.config.explain and self.model is not None and self.model.can_explain

    @property
    def batcher(self) -> Batcher:
        """Where images wait."""
        return self.supervisor.batcher

    @property
    def model(self) -> Ready | None:
        """What is served, None while the first is loaded."""
        return self.supervisor.model

    def timeout(self, asked: float) -> float:
        """Seconds that an answer may take."""
        return min(asked, self.config.timeout)

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
