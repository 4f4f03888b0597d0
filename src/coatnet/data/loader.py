"""Batches: for training a function of (seed, step), for evaluation every image once and in order.

torch is imported by `TrainingStream` only; `evaluation_batches` does without.
"""

import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coatnet.data.augmentation import AugmentationConfig, randaugment
from coatnet.data.cache import decode_all, read_image
from coatnet.data.images import ImageError, ImageLimits
from coatnet.data.preparation import Preparation, Prepared
from coatnet.data.preprocess import Preprocess
from coatnet.data.samples import Source
from coatnet.data.workers import prepared_by_workers
from coatnet.errors import DataError
from coatnet.ranks import is_joined, local_world_size

if TYPE_CHECKING:
    import torch

_DEFAULT_LIMITS = ImageLimits()
# More processes than this are rarely kept busy by one device, and each holds batches in memory.
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        images: (B, H, W, 3) uint8 tensor.
        labels: (B,) int64 tensor.
        step: the step it belongs to.
        place: which one it is of the micro-batches of all steps, counted from 0; the step itself where a step has one.
        unreadable: name and code of images that this batch found unreadable for the first time.
    """

    images: "torch.Tensor"
    labels: "torch.Tensor"
    step: int
    place: int
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class EvaluationBatch:
    """Some of the images of a source, in order.

    Attributes:
        indices: (b,) int64, places in the source of the images that could be read.
        images: (b, H, W, 3) uint8, resized as the preprocessing says.
        labels: (b,) int64.
        errors: for every image that could not be read, its place in the source and why.
    """

    indices: NDArray[np.int64]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    errors: dict[int, ImageError]


class TrainingStream:
    """Training batches for any range of steps, always full, the same for any number of workers and of processes.

    A step's batch is cut into `parts` micro-batches, of which this process draws its `own`. Position p of the run, in
    the order of steps, micro-batches and places in them, is sample `permutation(seed, p // n)[p % n]`, augmented with a
    seed made from (seed, p). If that image is unreadable the next one of the permutation takes its place.

    Images that fit into memory are decoded once, here; the others in the workers, whenever they are drawn.

    Args:
        source: the training samples, n of them.
        preprocess: size and way of resizing; mean and standard deviation are not used here.
        augmentation: what is done to an image.
        seed: of order and augmentation.
        batch_size: images per step, a multiple of `parts`.
        parts: micro-batches of a step, of all processes together.
        own: which of them this process draws.
        workers: processes that prepare batches; None is `default_workers()`, 0 is none.
        limits: what an image may be.
        max_bad: share of unreadable images above which a `DataError` is raised.
        memory: bytes that decoded images may take; None is a quarter of the free memory and at most 4 GiB, 0 is none.

    Attributes:
        unreadable: name and code of every unreadable image found so far.
        in_memory: whether all images are decoded.

    Raises:
        DataError: no samples, or more than `max_bad` unreadable; the latter also while batches are drawn.
    """

    def __init__(  # noqa: PLR0913 (keyword-only: each is one setting of the run)
        self,
        source: Source,
        preprocess: Preprocess,
        augmentation: AugmentationConfig,
        *,
        seed: int,
        batch_size: int,
        parts: int = 1,
        own: Sequence[int] = (0,),
        workers: int | None = None,
        limits: ImageLimits = _DEFAULT_LIMITS,
        max_bad: float = 0.01,
        memory: int | None = None,
    ) -> None:
        if not len(source):
            raise DataError("There are no training images.", hint="Check the path and the split.")
        self.source = source
        self.parts = parts
        self.own = tuple(own)
        self.workers = default_workers() if workers is None else workers
        self.max_bad = max_bad
        self.unreadable: list[tuple[str, str]] = []
        self._preparation = Preparation(source, preprocess, augmentation, seed, batch_size // parts, limits)
        decoded = decode_all(source, self._preparation.load, default_threads(), memory) if memory != 0 else None
        self._preparation.decoded = decoded
        self.in_memory = decoded is not None
        if decoded is not None:
            self.note([(source.names[index], error.code) for index, error in decoded.errors.items()])
        if augmentation.randaugment_layers > 0:  # imported once here instead of in every worker
            randaugment(augmentation.randaugment_layers, augmentation.randaugment_magnitude, min(preprocess.image_size))

    def __len__(self) -> int:
        """Samples in an epoch, unreadable ones included."""
        return len(self.source)

    def note(self, unreadable: list[tuple[str, str]]) -> None:
        """Count what this process or others found unreadable.

        Args:
            unreadable: name and code of images.

        Raises:
            DataError: there are too many now.
        """
        self._report(unreadable)
        self._check()

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """This process's micro-batches of steps `start_step` to `stop_step` - 1, prepared ahead by the workers.

        Several processes tell each other by `note` what they found unreadable; none of them leaves alone for it.

        Raises:
            DataError: too many unreadable images.
            ResourceError: a worker died or does not answer.
        """
        import torch

        def places() -> Iterator[int]:  # not a list: a run may have any number of steps
            return (step * self.parts + part for step in range(start_step, stop_step) for part in self.own)

        with closing(self._prepared(places())) as all_prepared:
            for place, prepared in zip(places(), all_prepared, strict=True):
                new = self._report(prepared.unreadable)
                if not is_joined():
                    self._check()
                if prepared.failure:
                    raise DataError(prepared.failure, hint="Check that the images are image files.")
                images, labels = torch.from_numpy(prepared.images), torch.from_numpy(prepared.labels)
                yield Batch(images, labels, place // self.parts, place, new)

    def _prepared(self, places: Iterable[int]) -> Generator[Prepared, None, None]:
        if self.workers == 0:
            return (self._preparation[place] for place in places)
        return prepared_by_workers(self._preparation, places, self.workers)

    def _report(self, found: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        known = set(self.unreadable)
        new = tuple(entry for entry in dict.fromkeys(found) if entry not in known)
        self.unreadable += new
        return new

    def _check(self) -> None:
        if len(self.unreadable) > self.max_bad * len(self.source):
            first = ", ".join(f"{name} ({code})" for name, code in self.unreadable[:3])
            share = len(self.unreadable) / len(self.source)
            raise DataError(
                f"{len(self.unreadable)} of {len(self.source)} training images cannot be read ({share:.1%}, allowed "
                f"are {self.max_bad:.1%}), the first: {first}.",
                hint="Repair or remove them, coatnet scan names them all; or allow more: --max-bad, in Python max_bad.",
            )


def evaluation_batches(
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
    workers: int | None = None,
    limits: ImageLimits = _DEFAULT_LIMITS,
) -> Iterator[EvaluationBatch]:
    """Every image of `source` exactly once, in order, decoded by threads a few batches ahead.

    Args:
        source: the samples.
        preprocess: how images are resized.
        batch_size: samples per batch; the last batch may have fewer.
        workers: threads; None is one per core, 0 is none.
        limits: what an image may be.
    """

    def load(index: int) -> NDArray[np.uint8] | ImageError:
        try:
            return preprocess.resized(read_image(source, index, limits))
        except ImageError as error:
            return error

    spans = [range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    num_threads = default_threads() if workers is None else workers
    if num_threads == 0:
        for span in spans:
            yield _evaluation_batch(source, preprocess, span, [load(index) for index in span])
        return
    pool = ThreadPoolExecutor(num_threads)
    try:
        ahead: deque[list[Future[NDArray[np.uint8] | ImageError]]] = deque()
        waiting = iter(spans)
        for span in spans:
            while len(ahead) < 3 and (following := next(waiting, None)) is not None:  # this batch and two ahead
                ahead.append([pool.submit(load, index) for index in following])
            yield _evaluation_batch(source, preprocess, span, [future.result() for future in ahead.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


def _evaluation_batch(
    source: Source, preprocess: Preprocess, span: range, loaded: list[NDArray[np.uint8] | ImageError]
) -> EvaluationBatch:
    errors = {index: image for index, image in zip(span, loaded, strict=True) if isinstance(image, ImageError)}
    images = [image for image in loaded if not isinstance(image, ImageError)]
    indices = np.array([index for index in span if index not in errors], dtype=np.int64)
    stacked = np.stack(images) if images else np.empty((0, *preprocess.image_size, 3), dtype=np.uint8)
    return EvaluationBatch(indices, stacked, source.labels[indices], errors)


def default_threads() -> int:
    """One per core that this process may use; processes of one run share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_world_size())


def default_workers() -> int:
    """One core is left to the training process itself: 0 on one core, 1 on two, at most 8; 0 outside Linux."""
    return min(_MOST_WORKERS, default_threads() - 1) if sys.platform == "linux" else 0
