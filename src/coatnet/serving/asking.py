"""Asking the worker for the sake of a client: until the deadline, and only as long as the client is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, overload

from starlette.requests import Request

from coatnet.classifier import Prediction
from coatnet.serving.batcher import Batcher
from coatnet.serving.messages import Classify, Explain, Item, Look
from coatnet.serving.problems import EXPIRED, GONE, Problem, ProblemError

SHORTEST_TIMEOUT = 0.05
"""Seconds: less would pass on the way."""


@overload
async def ask(
    request: Request, batcher: Batcher, images: Sequence[bytes], wanted: Classify, timeout: float
) -> list[Prediction]: ...


@overload
async def ask(
    request: Request, batcher: Batcher, images: Sequence[bytes], wanted: Explain, timeout: float
) -> list[Look]: ...


async def ask(
    request: Request, batcher: Batcher, images: Sequence[bytes], wanted: Classify | Explain, timeout: float
) -> list[Any]:
    """What the images show.

    Args:
        request: of which the body has been read.
        batcher: where to queue.
        images: files.
        wanted: of each.
        timeout: seconds that the answer may take.

    Returns:
        A Prediction or Look for each, as wanted.

    Raises:
        ProblemError: there is no answer for one of them.
    """
    deadline = time.monotonic() + timeout
    answers = batcher.ask([Item(image, wanted, deadline) for image in images])
    all_answered = asyncio.ensure_future(asyncio.wait(answers))
    gone = asyncio.ensure_future(request.receive())  # after the body comes nothing but the end of the connection
    pending: list[asyncio.Future[Any]] = [all_answered, gone, *answers]
    await asyncio.wait(pending[:2], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    has_left, is_answered = gone.done(), all_answered.done()
    for future in pending:
        future.cancel()  # which does nothing to what is done
    if not is_answered:
        raise ProblemError(GONE if has_left else EXPIRED)
    found = [answer.result() for answer in answers]
    for index, answer in enumerate(found):
        if isinstance(answer, Problem):
            where = f"Image {index}: " if len(images) > 1 else ""
            raise ProblemError(Problem(answer.status, answer.code, where + answer.detail))
    return found
