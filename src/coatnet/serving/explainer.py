"""Explanations in a process of their own: loaded for the first of them, killed when one hangs, then loaded anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from coatnet.errors import CoatnetError
from coatnet.serving.batcher import Batcher
from coatnet.serving.messages import Job, Ready
from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import LOADING, Problem, ProblemError
from coatnet.serving.supervisor import Supervisor

NO_GRADIENTS = Problem(422, "does_not_apply", "The classifier cannot be loaded with gradients.")


class Explainer:
    """A classifier in torch, beside that which predicts.

    Args:
        job: what predicts.
    """

    def __init__(self, job: Job) -> None:
        self._job = replace(job, runtime="torch", precision="float32", threads=None, batch_size=1, explains=True)
        self._supervisor: Supervisor | None = None
        self._starting: asyncio.Task[Ready] | None = None

    @property
    def batcher(self) -> Batcher:
        """Where images wait, once it is ready."""
        assert self._supervisor is not None
        return self._supervisor.batcher

    async def ready(self, seconds: float) -> Ready:
        """What it is, loaded if it is not yet. Loading goes on when it is not waited for any longer.

        Args:
            seconds: to wait.

        Raises:
            ProblemError: it cannot be loaded, or not so soon.
        """
        if self._supervisor is None or self._supervisor.failed.done():
            await self.stop()
            # What it counts is not shown: its batches are no predictions.
            self._supervisor = Supervisor(self._job, 1, Metrics())
            self._starting = asyncio.create_task(self._supervisor.start())
        assert self._starting is not None
        try:
            return await asyncio.wait_for(asyncio.shield(self._starting), seconds)
        except TimeoutError:
            raise ProblemError(LOADING) from None
        except (CoatnetError, OSError, ImportError, MemoryError):
            await self.stop()
            raise ProblemError(NO_GRADIENTS) from None

    async def stop(self) -> None:
        """End its process, if there is one; the next explanation starts another."""
        supervisor, self._supervisor = self._supervisor, None
        starting, self._starting = self._starting, None
        if starting:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        if supervisor:
            if supervisor.failed.done():
                supervisor.failed.exception()  # it has been logged
            await supervisor.stop()
