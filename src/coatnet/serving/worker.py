"""The inference worker: a process that holds the classifier, decodes and computes. It may die without the server.

It gets batches through a pipe and answers each; when the pipe closes it ends, whatever became of the server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier import Classifier, Prediction
from coatnet.classifier.artefact import is_artefact
from coatnet.data.images import ImageError, decode
from coatnet.errors import CoatnetError
from coatnet.serving.looking import look
from coatnet.serving.messages import Answer, Answers, Classify, Explain, Item, Job, Ready
from coatnet.serving.problems import EXPIRED, FAILED, Problem, of_image
from coatnet.serving.tuning import apply_threads, tune
from coatnet.terminal import visible

EXPLAINING_NICENESS = 10
"""Of a process that explains: where both want the same core, predictions get nine parts in ten (Linux, sched(7))."""


def work(connection: Connection, job: Job) -> None:
    """The life of a worker.

    Args:
        connection: first says `Ready`, or the error for which there is no classifier; then answers each list of items.
        job: what to load.
    """
    # A Ctrl-C in a terminal and a stop of a whole control group reach the worker too; the server says when to stop.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if job.explains and hasattr(os, "nice"):
        os.nice(EXPLAINING_NICENESS)
    try:
        classifier = job.open()
        ready = Ready(
            class_names=classifier.class_names,
            image_size=classifier.preprocess.image_size,
            tuned=tune(classifier, job.threads, job.batch_size),
            runtime=classifier.engine.description,
            can_explain=not is_artefact(Path(job.path)),
        )
    except (CoatnetError, OSError, ImportError, MemoryError) as error:
        connection.send(error)
        return
    apply_threads(classifier, ready.tuned.threads)
    pool = ThreadPoolExecutor(max(1, ready.tuned.threads))  # decoding; each holds one image of full size
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), pool:
        connection.send(ready)
        worker = Worker(classifier, job, pool)
        while True:
            connection.send(worker.answer(connection.recv()))


class Worker:
    """Answers batches.

    Args:
        classifier: for predictions.
        job: what it was loaded for.
        pool: decodes.
    """

    def __init__(self, classifier: Classifier, job: Job, pool: ThreadPoolExecutor) -> None:
        self._classifier, self._job, self._pool = classifier, job, pool

    def answer(self, items: Sequence[Item]) -> Answers:
        """Decode and compute a batch. An image that cannot be read fails alone, and what is too late is left out."""
        prepared = list(self._pool.map(self._prepare, items))
        now = time.monotonic()
        found: list[Answer | None] = [None] * len(items)
        images: dict[int, NDArray[np.uint8]] = {}
        for index, (item, image) in enumerate(zip(items, prepared, strict=True)):
            if isinstance(image, Problem):
                found[index] = image
            elif item.deadline <= now:
                found[index] = EXPIRED
            else:
                images[index] = image
        wanted = [items[index].wanted for index in images]
        for index, one in zip(images, self._compute(list(images.values()), wanted), strict=True):
            found[index] = one
        return Answers([each for each in found if each is not None], len(images))

    def _prepare(self, item: Item) -> NDArray[np.uint8] | Problem:
        if item.deadline <= time.monotonic():
            return EXPIRED
        try:
            return self._classifier.preprocess.resized(decode(item.data, self._job.limits))
        except ImageError as error:
            return of_image(error)

    def _compute(self, images: list[NDArray[np.uint8]], wanted: Sequence[Classify | Explain]) -> list[Answer]:
        if len(wanted) == 1 and isinstance(wanted[0], Explain):  # explanations come alone
            return [look(self._classifier, images[0], wanted[0])]
        class_names = self._classifier.class_names
        tops = [each.top for each in wanted if isinstance(each, Classify)]
        most = max((top or len(class_names) for top in tops), default=1)
        predictions = self._predict(images, most)
        return [_listed(one, top, class_names) for one, top in zip(predictions, tops, strict=True)]

    def _predict(self, images: list[NDArray[np.uint8]], top: int) -> list[Prediction | Problem]:
        """The whole batch, or if that fails each image by itself, so that only the one to blame goes without."""
        if not images:
            return []
        try:
            return list(self._classifier.predict(images, top))
        except Exception:
            if len(images) == 1:
                sys.stderr.write(visible(traceback.format_exc()))
                return [FAILED]
            return [each for image in images for each in self._predict([image], top)]


def _listed(answer: Prediction | Problem, top: int | None, class_names: Sequence[str]) -> Answer:
    """With the `top` best classes, or with all of them in their own order."""
    if isinstance(answer, Problem):
        return answer
    if top is None:
        order = {name: index for index, name in enumerate(class_names)}
        listed = tuple(sorted(answer.top, key=lambda pair: order[pair[0]]))
    else:
        listed = answer.top[:top]
    return Prediction(answer.label, answer.probability, listed)
