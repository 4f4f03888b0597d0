"""Asking the worker for the sake of a client: until the deadline, and only as long as the client is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.requests import Request

from coatnet.classifier import Prediction
from coatnet.serving.batcher import Batcher
from coatnet.serving.problems import EXPIRED, GONE, Problem, ProblemError
from coatnet.serving.worker import Answer, Item

SHORTEST_TIMEOUT = 0.05
"""Seconds: less would pass on the way."""


async def ask(
    request: Request, batcher: Batcher, images: Sequence[bytes], *, top: int | None, timeout: float
) -> list[Prediction]:
    """What the images show.

    Args:
        request: of which the body has been read.
        batcher: where to queue.
        images: files.
        top: how many classes to list, None for all.
        timeout: seconds that the answer may take.

    Raises:
        ProblemError: there is no answer for one of them.
    """
    deadline = time.monotonic() + timeout
    answers = asyncio.gather(*batcher.ask([Item(image, top, deadline) for image in images]))
    gone = asyncio.ensure_future(request.receive())  # after the body comes nothing but the end of the connection
    waited: set[asyncio.Future[object]] = {answers, gone}  # type: ignore[arg-type]
    await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    has_left = gone.done()
    gone.cancel()
    if not answers.done():
        answers.cancel()
        raise ProblemError(GONE if has_left else EXPIRED)
    return [_prediction(answer, index, len(images)) for index, answer in enumerate(answers.result())]


def _prediction(answer: Answer, index: int, count: int) -> Prediction:
    if isinstance(answer, Prediction):
        return answer
    where = f"Image {index}: " if count > 1 else ""
    raise ProblemError(Problem(answer.status, answer.code, where + answer.detail))
