"""What the server and its worker say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from coatnet.classifier import Classifier, Prediction
from coatnet.classifier.artefact import AskedPrecision
from coatnet.data.images import ImageLimits
from coatnet.explanation.explain import Method
from coatnet.runtime.engines import Runtime
from coatnet.serving.problems import Problem
from coatnet.serving.tuning import Tuned

LookMethod: TypeAlias = Method | Literal["attention"]


@dataclass(frozen=True)
class Job:
    """What a worker is started for."""

    path: str
    """A run folder, a classifier folder or the name of published weights."""
    published: bool
    device: str
    runtime: Runtime
    precision: AskedPrecision
    image_size: tuple[int, int] | None
    limits: ImageLimits
    threads: int | None
    batch_size: int | None
    explains: bool = False
    """Whether it is for explanations, which give way to predictions."""

    def open(self) -> Classifier:
        """Load the classifier.

        Raises:
            CoatnetError: it cannot be.
        """
        if not self.published:
            return Classifier.load(self.path, self.device, self.precision, self.runtime, self.image_size)
        precision = "float32" if self.precision == "auto" else self.precision
        classifier = Classifier.published(self.path, self.device, precision)
        return classifier.at_size(self.image_size) if self.image_size else classifier


@dataclass(frozen=True)
class Ready:
    """What a worker says once it has loaded."""

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    tuned: Tuned
    runtime: str
    """What computes, in words."""
    can_explain: bool
    """Whether gradients are to be had of it: not of an artefact."""


@dataclass(frozen=True)
class Classify:
    """Wanted: the classes of an image."""

    top: int | None
    """How many, best first; None for all in their own order."""


@dataclass(frozen=True)
class Explain:
    """Wanted: what the classifier looked at."""

    method: LookMethod
    place: tuple[float, float]
    """From the top and from the left, as fractions of the image: whose attention and receptive field are shown."""


@dataclass(frozen=True)
class Item:
    """One image, and what is wanted of it."""

    data: bytes
    """The file."""
    wanted: Classify | Explain
    deadline: float
    """On the clock of `time.monotonic`, which processes of one machine share."""


@dataclass(frozen=True)
class Look:
    """An explanation in pictures."""

    label: str
    probability: float
    image: bytes
    """PNG of the image as the network saw it."""
    layers: tuple[tuple[str, bytes], ...]
    """Title and PNG, transparent where nothing is shown, of each layer to lay over the image; the deepest last."""
    parts: tuple[tuple[str, bytes], ...]
    """For attention, title and PNG of each block: static, adaptive and whole part in rows, a column for each head."""


Answer: TypeAlias = Prediction | Look | Problem


@dataclass(frozen=True)
class Answers:
    """What a worker says of a batch."""

    answers: list[Answer]
    """One per item, in order."""
    num_computed: int
    """Items that the network saw."""
