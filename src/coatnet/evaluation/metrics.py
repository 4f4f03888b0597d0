"""What a set of answers is worth: accuracy with its interval, loss, calibration, scores per class. NumPy only.

An image that could not be read has a label but no answer. When it counts as wrong it enters the accuracies and the
recall and support of its class; loss, calibration and the confusion matrix are about answers and never see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import DataError, QualityError

NUM_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks", section 5: M = 15
TOP_K = 5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the metrics need of each answered image: five numbers instead of a row of logits; arrays (N,)."""

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    """Softmax probability of the predicted class, in (0, 1]."""
    rank: NDArray[np.int64]
    """How many classes stand before the true one, 0 is best. Equal logits stand in the order of their indices."""
    loss: NDArray[np.float64]
    """Negative log of the true class's probability, natural logarithm, >= 0."""
    names: tuple[str, ...] = ()
    """What the N images are called, or nothing."""

    @classmethod
    def of_logits(cls, logits: NDArray[Any], labels: NDArray[np.integer[Any]], names: Sequence[str] = ()) -> Self:
        """Rate a batch of logits.

        Args:
            logits: (N, C), any float type.
            labels: (N,) true classes, 0 <= label < C.
            names: N names of the images, or none.

        Raises:
            QualityError: a logit is NaN or infinite.
        """
        assert logits.ndim == 2, logits.shape
        assert labels.shape == (len(logits),), (logits.shape, labels.shape)
        wide = logits.astype(np.float64)
        num_bad = int((~np.isfinite(wide)).any(axis=1).sum())
        if num_bad:
            raise QualityError(
                f"The logits of {num_bad} of {len(wide)} images are not finite.",
                "The weights have diverged or overflow in this precision; try float32 or an earlier checkpoint.",
            )
        truth = labels.astype(np.int64)
        rows = np.arange(len(wide))
        own = wide[rows, truth][:, None]
        earlier = np.arange(wide.shape[1])[None, :] < truth[:, None]
        log_sum = log_sum_exp(wide)
        return cls(
            labels=truth,
            predicted=wide.argmax(axis=1),
            probability=np.exp(wide.max(axis=1) - log_sum),
            rank=((wide > own) | ((wide == own) & earlier)).sum(axis=1),
            loss=np.maximum(log_sum - own[:, 0], 0.0),
            names=tuple(names),
        )

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> Self:
        """The answers of several batches, in order; `parts` is not empty."""
        return cls(
            labels=np.concatenate([part.labels for part in parts]),
            predicted=np.concatenate([part.predicted for part in parts]),
            probability=np.concatenate([part.probability for part in parts]),
            rank=np.concatenate([part.rank for part in parts]),
            loss=np.concatenate([part.loss for part in parts]),
            names=tuple(name for part in parts for name in part.names),
        )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Answers whose probability lies in (low, high]: how sure they were and how often they were right."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean probability of the bin's answers; None in an empty bin."""
    accuracy: float | None
    """Fraction of the bin's answers that are right; None in an empty bin."""

    @property
    def gap(self) -> float:
        """|accuracy - confidence|, 0 in an empty bin."""
        return 0.0 if self.accuracy is None or self.confidence is None else abs(self.accuracy - self.confidence)


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Scores of one class, fractions in [0, 1]. A ratio with nothing below the line is 0, as in scikit-learn."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    """Images of this class that count."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of one classifier on one set of images. Rates are fractions in [0, 1]."""

    split: str
    """Which part of the data was scored: train, val, test or all."""
    num_images: int
    """Images that count: the answered ones, and the unreadable ones when they count as wrong."""
    unreadable: tuple[str, ...]
    """Names of the images that could not be read."""
    bad: str
    """What became of them: `wrong` (counted as wrong) or `exclude`."""
    class_names: tuple[str, ...]
    top1: float
    top1_interval: tuple[float, float]
    """95 % Wilson score interval."""
    top5: float
    """The true class is among the first min(5, C)."""
    top5_interval: tuple[float, float]
    loss: float
    """Mean negative log likelihood, natural logarithm."""
    calibration_error: float
    """Expected calibration error over 15 bins (Guo et al. 2017, equation 3)."""
    reliability: tuple[ReliabilityBin, ...]
    per_class: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]
    """(C, C) counts of answers: rows are true classes, columns predicted ones."""
    answers: Answers
    """Each answered image; not in `as_dict`."""

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images."""
        return float(np.mean([score.recall for score in self.per_class if score.support]))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have images."""
        return float(np.mean([score.f1 for score in self.per_class if score.support]))

    def summary(self) -> dict[str, Any]:
        """The numbers that fit one line: what `as_dict` holds, less the tables."""
        return {
            "split": self.split,
            "images": self.num_images,
            "unreadable": len(self.unreadable),
            "top1": self.top1,
            "top1_low": self.top1_interval[0],
            "top1_high": self.top1_interval[1],
            "top5": self.top5,
            "top5_low": self.top5_interval[0],
            "top5_high": self.top5_interval[1],
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything but the per-image arrays, ready for JSON.

        Returns:
            `summary()`, and: `bad` (wrong | exclude); `unreadable_images` (names); `classes` (list of name, precision,
            recall, f1, support); `reliability` (list of low, high, count, confidence, accuracy; the last two null in an
            empty bin); `confusion` (list of [true, predicted, count], classes as positions in `classes`, no zeros).
        """
        rows, columns = np.nonzero(self.confusion)
        counts = self.confusion[rows, columns]
        return self.summary() | {
            "bad": self.bad,
            "unreadable_images": list(self.unreadable),
            "classes": [vars(score).copy() for score in self.per_class],
            "reliability": [vars(one).copy() for one in self.reliability],
            "confusion": np.stack([rows, columns, counts], axis=1).tolist(),
        }


def rate(
    answers: Answers,
    class_names: Sequence[str],
    *,
    split: str = "all",
    unreadable: Sequence[tuple[str, int]] = (),
    bad: str = "wrong",
) -> Evaluation:
    """Turn answers into an Evaluation.

    Args:
        answers: of the images that were read, N of them.
        class_names: C names; labels and predictions are positions in it.
        split: which part of the data this is, only stored.
        unreadable: (name, label) of each image that could not be read.
        bad: `wrong` counts those as wrong answers, `exclude` leaves them out.

    Raises:
        DataError: no image was read.
    """
    if not len(answers):
        raise DataError(f"None of the {len(unreadable)} images could be read.", "Check the path and the files in it.")
    assert bad in ("wrong", "exclude"), bad
    lost = np.array([label for _, label in unreadable] if bad == "wrong" else [], dtype=np.int64)
    total = len(answers) + len(lost)
    num_top1 = int((answers.rank == 0).sum())
    num_top5 = int((answers.rank < TOP_K).sum())
    confusion = confusion_matrix(answers.labels, answers.predicted, len(class_names))
    reliability = reliability_bins(answers.probability, answers.rank == 0)
    return Evaluation(
        split=split,
        num_images=total,
        unreadable=tuple(name for name, _ in unreadable),
        bad=bad,
        class_names=tuple(class_names),
        top1=num_top1 / total,
        top1_interval=wilson_interval(num_top1, total),
        top5=num_top5 / total,
        top5_interval=wilson_interval(num_top5, total),
        loss=float(answers.loss.mean()),
        calibration_error=calibration_error(reliability),
        reliability=reliability,
        per_class=class_scores(confusion, np.bincount(lost, minlength=len(class_names)), class_names),
        confusion=confusion,
        answers=answers,
    )


def log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(sum(exp(logits))) of each row, without overflow: (N, C) -> (N,)."""
    top = logits.max(axis=1)
    total: NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return total


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a rate (Wilson 1927, "Probable inference, the law of succession").

    Unlike the textbook interval it stays inside [0, 1] and has a width at 0 % and 100 %.
    """
    assert trials > 0, trials
    assert 0 <= successes <= trials, (successes, trials)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    fraction = successes / trials
    centre = fraction + z * z / (2 * trials)
    spread = z * math.sqrt(fraction * (1 - fraction) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, min(fraction, (centre - spread) / scale)), min(1.0, max(fraction, (centre + spread) / scale))


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """(C, C) counts, rows true, columns predicted."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def reliability_bins(probability: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Answers in 15 bins of equal width of probability; bin m holds ((m-1)/15, m/15] (Guo et al. 2017, section 2)."""
    which = np.clip(np.ceil(probability * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(which, minlength=NUM_BINS)
    sure = np.bincount(which, weights=probability, minlength=NUM_BINS)
    hits = np.bincount(which, weights=right, minlength=NUM_BINS)
    return tuple(
        ReliabilityBin(
            low=m / NUM_BINS,
            high=(m + 1) / NUM_BINS,
            count=int(count),
            confidence=float(sure[m] / count) if count else None,
            accuracy=float(hits[m] / count) if count else None,
        )
        for m, count in enumerate(counts)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean gap of the bins, weighted by their counts (Guo et al. 2017, equation 3)."""
    return sum(one.count * one.gap for one in bins) / sum(one.count for one in bins)


def class_scores(
    confusion: NDArray[np.int64], lost: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each class.

    Args:
        confusion: (C, C), rows true.
        lost: (C,) images of each class that count as wrong but have no answer.
        class_names: C names.
    """
    hits = confusion.diagonal()
    support = confusion.sum(axis=1) + lost
    answered = confusion.sum(axis=0)
    precision = hits / np.maximum(answered, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(answered + support, 1)  # harmonic mean of the two, without dividing by 0
    return tuple(
        ClassScore(name=name, precision=float(p), recall=float(r), f1=float(f), support=int(n))
        for name, p, r, f, n in zip(class_names, precision, recall, f1, support, strict=True)
    )
