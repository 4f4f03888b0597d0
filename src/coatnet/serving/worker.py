"""The inference worker: a process that holds the classifier, decodes and computes. It may die without the server.

It gets batches through a pipe and answers each; when the pipe closes it ends, whatever became of the server.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier import Classifier, Prediction
from coatnet.data.images import ImageError, ImageLimits, decode
from coatnet.errors import CoatnetError
from coatnet.serving.problems import EXPIRED, FAILED, Problem, of_image
from coatnet.serving.tuning import Tuned, apply_threads, tune


@dataclass(frozen=True)
class Job:
    """What a worker is started for."""

    path: str
    """A run folder, a classifier folder or the name of published weights."""
    published: bool
    device: str
    image_size: tuple[int, int] | None
    limits: ImageLimits
    threads: int | None
    batch_size: int | None

    def open(self) -> Classifier:
        """Load the classifier.

        Raises:
            CoatnetError: it cannot be.
        """
        classifier = (Classifier.published if self.published else Classifier.load)(self.path, self.device)
        return classifier.at_size(self.image_size) if self.image_size else classifier


@dataclass(frozen=True)
class Ready:
    """What a worker says once it has loaded."""

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    tuned: Tuned


@dataclass(frozen=True)
class Item:
    """One image to classify."""

    data: bytes
    """The file."""
    top: int | None
    """Classes to list, best first; None for all in their own order."""
    deadline: float
    """On the clock of `time.monotonic`, which processes of one machine share."""


Answer: TypeAlias = Prediction | Problem


@dataclass(frozen=True)
class Answers:
    """What a worker says of a batch."""

    answers: list[Answer]
    """One per item, in order."""
    num_computed: int
    """Items that the network saw."""


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
    try:
        classifier = job.open()
        ready = Ready(
            classifier.class_names, classifier.preprocess.image_size, tune(classifier, job.threads, job.batch_size)
        )
    except (CoatnetError, OSError, ImportError, MemoryError) as error:
        connection.send(error)
        return
    apply_threads(classifier, ready.tuned.threads)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), ThreadPoolExecutor() as pool:
        connection.send(ready)
        while True:
            connection.send(answer(classifier, connection.recv(), job.limits, pool))


def answer(classifier: Classifier, items: Sequence[Item], limits: ImageLimits, pool: ThreadPoolExecutor) -> Answers:
    """Decode and classify a batch. An image that cannot be read fails alone, and what is too late is left out."""

    def prepare(item: Item) -> NDArray[np.uint8] | Problem:
        if item.deadline <= time.monotonic():
            return EXPIRED
        try:
            return classifier.preprocess.resized(decode(item.data, limits))
        except ImageError as error:
            return of_image(error)

    prepared = list(pool.map(prepare, items))
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
    most = max((item.top or len(classifier.class_names) for item in items), default=1)
    for index, prediction in zip(images, _predict(classifier, list(images.values()), most), strict=True):
        found[index] = _listed(prediction, items[index].top, classifier.class_names)
    return Answers([each for each in found if each is not None], len(images))


def _predict(classifier: Classifier, images: list[NDArray[np.uint8]], top: int) -> list[Answer]:
    """The whole batch, or if that fails each image by itself, so that only the one to blame goes without."""
    if not images:
        return []
    try:
        return list(classifier.predict(images, top))
    except Exception:
        if len(images) == 1:
            sys.stderr.write(traceback.format_exc())
            return [FAILED]
        return [each for image in images for each in _predict(classifier, [image], top)]


def _listed(answer: Answer, top: int | None, class_names: Sequence[str]) -> Answer:
    """With the `top` best classes, or with all of them in their own order."""
    if isinstance(answer, Problem):
        return answer
    if top is None:
        order = {name: index for index, name in enumerate(class_names)}
        listed = tuple(sorted(answer.top, key=lambda pair: order[pair[0]]))
    else:
        listed = answer.top[:top]
    return Prediction(answer.label, answer.probability, listed)
