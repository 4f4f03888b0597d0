"""Processes that prepare training batches ahead. Without torch, which they do not need.

torch's DataLoader is not used: when a worker dies it raises from a signal handler, anywhere in the training process.
Here each worker has its own pipe, and its end is the end of the pipe, seen where the batch is asked for.
"""

import atexit
import itertools
import mmap
import multiprocessing
import signal
import sys
import traceback
import warnings
from collections.abc import Generator, Iterable
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from coatnet.data.preparation import Preparation, Prepared
from coatnet.errors import ConfigError, ResourceError

# Batches that a worker may be ahead: one is being made while another waits.
_NUM_SLOTS = 2
# A batch that takes longer hangs on a file system that does not answer.
_TIMEOUT_SECONDS = 120.0
_GOODBYE_SECONDS = 5.0


def prepared_by_workers(
    preparation: Preparation, places: Iterable[int], num_workers: int
) -> Generator[Prepared, None, None]:
    """The micro-batches at `places`, in order, made by `num_workers` processes that end with the iterator.

    Raises:
        ConfigError: not on Linux, where alone a process with threads can be forked.
        ResourceError: a worker died or does not answer.
    """
    if sys.platform != "linux":
        raise ConfigError(f"workers {num_workers} needs Linux.", hint="Take workers 0.")
    workers: list[_Worker] = []

    def close() -> None:
        while workers:
            workers.pop().close()

    atexit.register(close)  # for an iterator that nobody closed: multiprocessing would wait for its workers for ever
    try:
        places, ahead = itertools.tee(places)
        first = list(itertools.islice(ahead, num_workers * _NUM_SLOTS))
        for _ in range(min(num_workers, len(first))):
            workers.append(_Worker(preparation, workers))
        for index, place in enumerate(first):
            workers[index % len(workers)].ask(place, index // len(workers))
        for index, place in enumerate(places):
            worker = workers[index % len(workers)]
            slot = index // len(workers) % _NUM_SLOTS
            prepared = worker.answer(place, slot)
            following = next(ahead, None)
            if following is not None:
                worker.ask(following, slot)
            yield prepared
    finally:
        close()
        atexit.unregister(close)


class _Worker:
    """One process, its pipe, and memory shared with it for the images of `_NUM_SLOTS` batches."""

    def __init__(self, preparation: Preparation, others: "list[_Worker]") -> None:
        shape = (_NUM_SLOTS, preparation.batch_size, *preparation.preprocess.image_size, 3)
        # Anonymous memory, since /dev/shm is 64 MB in many containers.
        self.images = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)
        self.pipe, theirs = multiprocessing.Pipe()
        inherited = [self.pipe, *(other.pipe for other in others)]
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_work, args=(preparation, theirs, self.images, inherited), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 and later warn of forking a process with threads: the workers touch nothing of theirs, and
            # forking shares the decoded images.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()

    def ask(self, step: int, slot: int) -> None:
        try:
            self.pipe.send((step, slot))
        except OSError as error:
            raise self._lost(step) from error

    def answer(self, step: int, slot: int) -> Prepared:
        try:
            if not self.pipe.poll(_TIMEOUT_SECONDS):
                raise ResourceError(
                    f"A process that prepares images has not answered for {_TIMEOUT_SECONDS:g} s, at step {step}.",
                    hint="Is the disk or network that holds the images still there?",
                )
            prepared = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._lost(step) from error
        if isinstance(prepared, str):
            raise RuntimeError(prepared)
        assert isinstance(prepared, Prepared)
        prepared.images = self.images[slot, : len(prepared.labels)].copy()
        return prepared

    def close(self) -> None:
        self.pipe.close()
        self.process.join(_GOODBYE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()

    def _lost(self, step: int) -> ResourceError:
        self.process.join(1)
        return ResourceError(
            f"A process that prepares images died at step {step} (exit code {self.process.exitcode}).",
            hint="It may have been killed for lack of memory; try fewer workers, or workers 0.",
        )


def _work(preparation: Preparation, pipe: Connection, images: NDArray[np.uint8], inherited: list[Connection]) -> None:
    # A signal to the whole group is for the training process, which ends its workers itself once it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for other in inherited:  # else a pipe would seem open after the training process is gone
        other.close()
    try:
        while True:
            step, slot = pipe.recv()
            pipe.send(_attempt(preparation, step, images[slot]))
    except (EOFError, OSError):
        return  # the training process is done with us, or gone


def _attempt(preparation: Preparation, step: int, images: NDArray[np.uint8]) -> Prepared | str:
    """The batch of a step, its images written to `images`, or the traceback of what went wrong."""
    try:
        prepared = preparation[step]
    except Exception:  # whatever it is belongs to the training process
        return traceback.format_exc()
    images[: len(prepared.images)] = prepared.images
    prepared.images = prepared.images[:0]
    return prepared
