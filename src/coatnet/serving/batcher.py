"""The queue between HTTP and the worker: bounded, first come first served, each image with its deadline.

There is no waiting for a batch to fill: while a batch is computed the next one gathers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from coatnet.serving.messages import Answer, Answers, Explain, Item
from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import EXPIRED, QUEUE_FULL, Problem, ProblemError


@dataclass
class _Waiting:
    item: Item
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Takes images one by one, gives them out in batches.

    Args:
        compute: answers a batch; raises ProblemError if nobody in it gets an answer.
        metrics: where to count.
    """

    def __init__(self, compute: Callable[[list[Item]], Awaitable[Answers]], metrics: Metrics) -> None:
        self._compute = compute
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._open = asyncio.Event()
        self.capacity = 0
        self.batch_size = 1
        metrics.waiting.set_function(lambda: len(self._queue))

    def open(self, capacity: int, batch_size: int) -> None:
        """Give batches out from now on.

        Args:
            capacity: images that may wait.
            batch_size: images in a batch.
        """
        self.capacity, self.batch_size = capacity, batch_size
        self._open.set()

    def close(self) -> None:
        """Give no batch out until it is opened again; who waits goes on waiting, up to his deadline."""
        self._open.clear()

    def has_room(self, count: int = 1) -> bool:
        """Whether so many more may wait."""
        return len(self._queue) + count <= self.capacity

    def ask(self, items: Sequence[Item]) -> list[asyncio.Future[Answer]]:
        """Queue images, all or none; a future that is cancelled leaves the queue.

        Raises:
            ProblemError: there is no room.
        """
        if not self.has_room(len(items)):
            raise ProblemError(QUEUE_FULL)
        waiting = [_Waiting(item, asyncio.get_running_loop().create_future()) for item in items]
        self._queue.extend(waiting)
        self._arrived.set()
        return [each.answer for each in waiting]

    def abandon(self, problem: Problem) -> None:
        """Tell everyone who waits that there will be no answer."""
        while self._queue:
            _settle(self._queue.popleft(), problem)

    async def run(self) -> None:
        """Give out batches, for ever."""
        while True:
            await self._open.wait()
            await self._arrived.wait()
            batch = self._take() if self._open.is_set() else []
            if batch:
                await self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """The next batch, without those that are too late or whose client left."""
        batch: list[_Waiting] = []
        now = time.monotonic()
        while self._queue and len(batch) < self.batch_size:
            is_alone = isinstance(self._queue[0].item.wanted, Explain)  # others would wait for its answer
            if is_alone and batch:
                break
            waiting = self._queue.popleft()
            if waiting.item.deadline > now and not waiting.answer.done():
                self._metrics.wait_seconds.observe(now - waiting.since)
                batch.append(waiting)
                if is_alone:
                    break
                continue
            self._metrics.dropped.inc()
            _settle(waiting, EXPIRED)
        if not self._queue:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        self._metrics.batch.observe(len(batch))
        try:
            with self._metrics.batch_seconds.time():
                found = await self._compute([waiting.item for waiting in batch])
        except ProblemError as error:
            for waiting in batch:
                _settle(waiting, error.problem)
            return
        except asyncio.CancelledError:  # the server stops: they wait for what it tells everyone
            self._queue.extendleft(reversed(batch))
            raise
        self._metrics.images.inc(found.num_computed)
        self._metrics.dropped.inc(sum(answer == EXPIRED for answer in found.answers))
        for waiting, answer in zip(batch, found.answers, strict=True):
            _settle(waiting, answer)


def _settle(waiting: _Waiting, answer: Answer | Problem) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(answer)
