"""Keeps an inference worker alive: starts it, gives it batches, replaces it when it dies or when a reload is asked."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from coatnet.errors import CoatnetError, ResourceError
from coatnet.serving.batcher import Batcher
from coatnet.serving.messages import Answers, Item, Job, Ready
from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import DRAINING, WORKER_DIED, ProblemError
from coatnet.serving.worker import work
from coatnet.terminal import visible

MOST_DEATHS, DEATHS_SECONDS = 3, 60
"""A worker that dies three times in a minute dies of something that a fourth start will not mend."""
STOP_SECONDS = 5
"""An idle worker ends within milliseconds; one that hangs is killed."""
HANG_SECONDS = 5
"""A batch that takes so much longer than anyone waits for its answer has hung: ten times the longest that the tuning
allows a batch."""
BATCH_FACTOR = 10
"""A batch may take so many times what it was measured to take, whenever its answer is due: a client in a hurry must not
have the worker of a slow network killed, and other processes may use the cores too."""
LOAD_SECONDS = 600
"""A worker that has said nothing by then has hung: published weights of the largest network come in this time at
10 Mbit/s."""

Result = TypeVar("Result")


class WorkerDiedError(Exception):
    """The worker ended without being told to."""


class WorkerHungError(WorkerDiedError):
    """The worker is there, and does not answer."""


class _Worker:
    """One worker process, seen from the server. What blocks runs in a thread."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of running threads
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, job), name="coatnet-worker", daemon=True)
        self._theirs = theirs
        self._threads = ThreadPoolExecutor(3)  # an exchange, the wait for its end, and the patience of `stop`
        self._is_exchanging = False
        self._batch_seconds = 0.0
        self.is_busy = asyncio.Lock()

    async def start(self) -> Ready:
        """Wait until it has loaded.

        Raises:
            CoatnetError: it cannot load; what it says of that.
            WorkerDiedError: it says nothing.
        """
        await self._in_thread(self.process.start)
        self._theirs.close()
        said = await self._within(LOAD_SECONDS, lambda: self._reading(self._connection.recv))
        if isinstance(said, Exception):
            raise said
        assert isinstance(said, Ready)
        self._batch_seconds = said.tuned.seconds
        return said

    async def compute(self, items: list[Item]) -> Answers:
        """The answers for a batch.

        Raises:
            WorkerDiedError: it died over it, or before.
            WorkerHungError: nobody waits for its answer any more, and have not for a while.
        """
        patience = patience_for(items, self._batch_seconds)
        async with self.is_busy:
            return await self._within(patience, lambda: self._reading(lambda: self._exchange(items)))

    async def ended(self) -> None:
        """Return when the process has ended."""
        await self._in_thread(self.process.join)

    async def stop(self, patience: float = 0) -> None:
        """End it: if it is idle by closing its pipe, and if it does not mind that in so many seconds, by force.

        Nothing here may wait for a thread that waits for the process: one that hangs leaves them blocked until it is
        killed. And a pipe is not closed under a thread that reads it, which might go on to read whatever is opened next
        under the same number.
        """
        if self.process.pid is not None:
            if patience and not self._is_exchanging:
                self._connection.close()
                await self._in_thread(lambda: self.process.join(patience))
            self.process.kill()
            await self._in_thread(self.process.join)
        self._connection.close()
        self._threads.shutdown(wait=False)

    def _exchange(self, items: list[Item]) -> Answers:
        self._connection.send(items)
        answers: Answers = self._connection.recv()
        return answers

    def _reading(self, action: Callable[[], Result]) -> Result:
        self._is_exchanging = True
        try:
            return action()
        finally:
            self._is_exchanging = False

    async def _within(self, seconds: float, action: Callable[[], Result]) -> Result:
        try:
            return await asyncio.wait_for(self._in_thread(action), seconds)
        except TimeoutError:
            raise WorkerHungError from None

    async def _in_thread(self, action: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, action)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise WorkerDiedError from error


def patience_for(items: Sequence[Item], batch_seconds: float) -> float:
    """Seconds from now after which a batch has hung.

    Args:
        items: the batch.
        batch_seconds: that a full batch was measured to take.
    """
    until_due = max(item.deadline for item in items) - time.monotonic()
    return max(until_due, BATCH_FACTOR * batch_seconds) + HANG_SECONDS


class Supervisor:
    """The classifier of a server, in whatever worker it is.

    Args:
        job: what workers load.
        capacity: images that may wait; None for what is computed in a second, two to eight batches.
        metrics: where to count.
    """

    def __init__(self, job: Job, capacity: int | None, metrics: Metrics) -> None:
        self._job = job
        self._capacity = capacity
        self.metrics = metrics
        self._worker: _Worker | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._watches: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.batcher = Batcher(self._compute, metrics)
        self.model: Ready | None = None
        """What is served; None until the first worker is ready."""
        self.is_ready = False
        """Whether a worker waits for images."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets an exception when it is no use to go on."""

    async def start(self) -> Ready:
        """Load, and begin to give out batches.

        Raises:
            CoatnetError: there is no classifier to be had.
        """
        self._watch(self.batcher.run())
        try:
            ready = await self._replace(self._job)
        except WorkerDiedError:
            raise ResourceError("the worker died while it loaded", "its memory may not suffice") from None
        return ready

    async def reload(self) -> None:
        """Load the folder anew; if that fails, what was served is served on."""
        async with self._reloading:
            try:
                await self._replace(self._job)
            except (CoatnetError, OSError, ImportError, MemoryError, WorkerDiedError) as error:
                self.metrics.reloads.labels("failed").inc()
                _log(f"reload failed, the old classifier is served on: {error}")
            else:
                self.metrics.reloads.labels("done").inc()
                _log("reloaded")

    async def stop(self) -> None:
        """End the worker. Whoever still waits is told that the server stops."""
        self.is_ready = False
        self.batcher.close()
        worker, self._worker = self._worker, None
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        self.batcher.abandon(DRAINING)
        if worker:
            await worker.stop(STOP_SECONDS)

    async def _replace(self, job: Job) -> Ready:
        """A new worker takes the place of the old one, between two batches."""
        worker = _Worker(job)
        try:
            ready = await worker.start()
        except BaseException:
            await worker.stop()
            raise
        old, self._worker, self.model = self._worker, worker, ready
        batch_size, rate = ready.tuned.batch_size, ready.tuned.rate
        self.batcher.open(self._capacity or min(max(round(rate), 2 * batch_size), 8 * batch_size), batch_size)
        self._set_ready(True)
        self._watch(self._when_ended(worker))
        if old:
            async with old.is_busy:
                await old.stop(STOP_SECONDS)
        return ready

    async def _compute(self, items: list[Item]) -> Answers:
        worker = self._worker
        try:
            if worker is None:
                raise WorkerDiedError
            return await worker.compute(items)
        except WorkerDiedError as error:
            if worker:
                self._lost(worker, isinstance(error, WorkerHungError))
            raise ProblemError(WORKER_DIED) from None

    async def _when_ended(self, worker: _Worker) -> None:
        await worker.ended()
        self._lost(worker)

    def _lost(self, worker: _Worker, has_hung: bool = False) -> None:
        """Said by whoever sees first that a worker is gone; the others find another in its place."""
        if worker is not self._worker:
            return
        self._worker = None
        self._set_ready(False)
        self.batcher.close()
        self.metrics.deaths.inc()
        if not has_hung:  # a batch that takes for ever is the fault of an image: a new worker helps each time
            self._deaths.append(time.monotonic())
        self._watch(self._come_back(worker, has_hung))

    async def _come_back(self, lost: _Worker, has_hung: bool) -> None:
        await lost.stop()
        how = "hung and was killed" if has_hung else f"died (exit code {lost.process.exitcode})"
        _log(f"the worker {how}")
        if not has_hung and len(self._deaths) == MOST_DEATHS and time.monotonic() - self._deaths[0] < DEATHS_SECONDS:
            self._fail(ResourceError(f"the worker died {MOST_DEATHS} times in a minute", "its memory may not suffice"))
            return
        assert self.model is not None
        settled = self.model.tuned  # need not be measured again
        try:
            await self._replace(replace(self._job, threads=settled.threads or None, batch_size=settled.batch_size))
            _log("the worker is back")
        except (CoatnetError, OSError, ImportError, MemoryError) as error:
            self._fail(error)
        except WorkerDiedError:
            self._fail(ResourceError("the worker died while it loaded", "its memory may not suffice"))

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _set_ready(self, ready: bool) -> None:
        self.is_ready = ready
        self.metrics.ready.set(ready)

    def _watch(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run it until it ends or the server stops; what it raises is a bug, and ends the server."""
        task = asyncio.create_task(coroutine)
        self._watches.add(task)
        task.add_done_callback(self._watched)

    def _watched(self, task: asyncio.Task[None]) -> None:
        self._watches.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)


def _log(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(visible(f"coatnet: {line}\n"))
        sys.stderr.flush()
