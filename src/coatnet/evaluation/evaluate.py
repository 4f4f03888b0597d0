"""Score a classifier on a data set: which part of it, joined by class names, every image exactly once."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier import Classifier
from coatnet.data.loader import EvaluationBatch, evaluation_batches
from coatnet.data.sources import DataConfig, Source, SplitRecord, find_parts, open_data, open_unsplit
from coatnet.data.splitting import apply_split
from coatnet.errors import DataError, Stopped
from coatnet.evaluation.metrics import Answers, Evaluation, rate
from coatnet.ranks import gathered, is_joined, rank, world_size

Split = Literal["train", "val", "test", "all"]
Bad = Literal["wrong", "exclude"]
BATCH_SIZE = 64


def evaluate(  # noqa: PLR0913 (options are keywords)
    classifier: Classifier,
    data: str | Path | DataConfig | Source,
    *,
    split: Split | None = None,
    bad: Bad = "wrong",
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    record: SplitRecord | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Score a classifier.

    Args:
        classifier: what answers; its preprocessing is used.
        data: what `coatnet train` takes: a folder, a table or `digits`; or a Source, of which every image is scored.
        split: which part. By default test, else val, where the data has them or `record` tells them; else all images.
            For a Source only the label of the result.
        bad: unreadable images are counted as wrong, or excluded. They are never replaced, and always named.
        batch_size: images per call of the engine.
        workers: processes that decode images, 0 for none; default: sized to the machine.
        record: the split that a run chose, see `data.splitting.stored_split`. It counts only if the data holds all its
            samples.
        should_stop: looked at before each batch.

    Returns:
        The scores; labels are positions in the classifier's class names.

    Raises:
        DataError: no such data or split, a class that the classifier does not know, or no readable image.
        Stopped: `should_stop` said so.
    """
    if isinstance(data, Source):
        source, name = data, str(split or "all")
    else:
        config = data if isinstance(data, DataConfig) else DataConfig(path=str(data))
        source, name = find_split(config, split, record)
    source = source.relabelled(classifier.class_names)
    own = share_of(source)
    batches = evaluation_batches(own, classifier.preprocess, batch_size, workers)
    return score(classifier.logits, own, batches, split=name, bad=bad, should_stop=should_stop)


def share_of(source: Source) -> Source:
    """The images that this process scores: all of them, unless several processes share the work."""
    return source.subset(range(rank(), len(source), world_size())) if is_joined() else source


def score(  # noqa: PLR0913 (options are keywords)
    logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    source: Source,
    batches: Iterable[EvaluationBatch],
    *,
    split: str = "all",
    bad: Bad = "wrong",
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Score anything that gives logits; the training loop calls this too. Several processes put their shares together.

    Args:
        logits: (B, H, W, 3) uint8 images of the network's size -> (B, C) logits.
        source: this process's share; its class names are the C classes, in the order of the logits.
        batches: of `source`.
        split: label of the result.
        bad: see `evaluate`.
        should_stop: looked at before each batch; not by several processes, of which none may leave alone.
    """
    if is_joined():
        should_stop = None
    parts: list[Answers] = []
    unreadable: list[tuple[str, int]] = []
    for batch in batches:
        if should_stop is not None and should_stop():
            raise Stopped("Stopped during the evaluation.", "Start it again; it takes the images in the same order.")
        unreadable += [(source.names[index], int(source.labels[index])) for index in batch.errors]
        if len(batch.indices):
            names = [source.names[index] for index in batch.indices]
            parts.append(Answers.of_logits(logits(batch.images), source.labels[batch.indices], names))
    shares = gathered((parts, unreadable))
    parts, unreadable = [part for own, _ in shares for part in own], [one for _, own in shares for one in own]
    if not parts:
        raise DataError(f"None of the {len(unreadable)} images could be read.", "Check the path and the files in it.")
    return rate(Answers.joined(parts), source.class_names, split=split, unreadable=unreadable, bad=bad)


def find_split(config: DataConfig, split: Split | None = None, record: SplitRecord | None = None) -> tuple[Source, str]:
    """The part of a data set to score, and its name.

    Raises:
        DataError: no such data or split.
    """
    parts = dict(find_parts(config).parts)
    if config.path == "digits" and record is None:
        record = open_data(config).chosen
    pool = parts.get("all", parts.get("train"))
    if record is not None and pool is not None and "val" not in parts and _holds(pool, record):
        train, val, test, _ = apply_split(pool, record)
        chosen = {"train": train, "val": val} | ({} if test is None else {"test": test})
        parts = chosen | {name: part for name, part in parts.items() if name not in ("all", "train")}
    wanted: str = split or next((name for name in ("test", "val") if name in parts), "all")
    if wanted == "all":
        return open_unsplit(config.path, config), "all"
    if wanted not in parts:
        raise DataError(
            f"{config.path} has no {wanted} split: found {', '.join(sorted(parts))}.",
            "Name another split, or all; or give the run folder that chose the split.",
        )
    return parts[wanted], wanted


def _holds(pool: Source, record: SplitRecord) -> bool:
    """Whether these are the images that the record was made for: all that it names are there."""
    return set(record.val) | set(record.test) <= set(pool.names)
