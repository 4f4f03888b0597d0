"""What a checkpoint is, whether its parts agree, and what looks wrong: the work of `coatnet doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier.classifier import Classifier
from coatnet.classifier.fingerprint import shown_input
from coatnet.classifier.folder import Contents, find_folder, sha256
from coatnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from coatnet.data.samples import some
from coatnet.data.storage import address_of
from coatnet.errors import ModelFileError
from coatnet.model.heads import classes_layers
from coatnet.runtime.engines import TorchEngine

CONSTANTS = {
    "ImageNet's mean and deviation": (IMAGENET_MEAN, IMAGENET_STD),
    "mean and deviation 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "mean 0.5 and deviation 0.25": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    "the scale 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Ways to normalise that are in use: torchvision's, the `rw` weights of timm, our recipe's, none at all."""
SUSPECT_DIVERGENCE, SUSPECT_RATIO = 0.1, 4.0
"""Nats between the first batch norm's running statistics and those of the images, above which the normalisation is
suspected if another one comes this many times nearer. Measured in benchmarks/doctor.md."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Literal["fine", "note", "wrong"]
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Examination:
    """What was found out about a checkpoint."""

    kind: str
    """What it is, in words."""
    facts: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.level != "wrong" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `kind`, `healthy`, `facts`, and `findings`, a list of {level, text, hint}."""
        findings = [finding._asdict() for finding in self.findings]
        return {"kind": self.kind, "healthy": self.healthy, "facts": self.facts, "findings": findings}


class Sample(NamedTuple):
    """Labelled images to try a classifier on."""

    images: Sequence[NDArray[np.uint8]]
    """(H, W, 3) RGB, of any sizes."""
    labels: Sequence[str]
    """The name of each image's class."""


def examine(path: Path, sample: Sample | None = None) -> Examination:
    """Look at a classifier folder, a run folder or a file of weights.

    Args:
        path: what to look at.
        sample: images that the classifier should know; with them the normalisation and the order of the classes can be
            checked as well.

    Raises:
        ModelFileError: `path` is none of these.
    """
    if path.is_file():
        return _examine_weights(path)
    if not path.exists() and not address_of(path):
        raise ModelFileError(f"{path} does not exist.", "Give a run folder, a classifier folder or a file of weights.")
    folder = find_folder(path)
    try:
        contents = Contents.read(folder)
    except ModelFileError as error:
        return Examination("classifier folder", {}, (_wrong(error),))
    facts = _facts(contents)
    try:
        classifier = Classifier.load(folder, "cpu")
    except ModelFileError as error:
        return Examination("classifier folder", facts, (_wrong(error), *_earlier_preprocess(contents)))
    findings = [
        Finding("fine", "weights, config, preprocessing, class names and fingerprint belong together"),
        *_names(classifier),
        *_size(classifier),
        *_training(classifier),
    ]
    if sample is None:
        findings.append(Finding("note", "normalisation and order of classes were not tried", "give DATA as well"))
    else:
        findings += [*_normalisation(classifier, sample), *_answers(classifier, sample)]
    return Examination("classifier folder", facts, tuple(findings))


def _examine_weights(path: Path) -> Examination:
    """A file of weights tells no preprocessing and no names; only whose they are."""
    import torch

    from coatnet.model.identify import identify
    from coatnet.model.tensors import read_tensors

    tensors = read_tensors(path)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    facts = {"tensors": f"{len(tensors)}, {numbers / 1e6:,.2f} M numbers", "sha256": sha256(path)}
    findings = []
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in floating.items() if not torch.isfinite(tensor).all()]
    if broken:
        findings.append(Finding("wrong", f"{len(broken)} tensors are not finite: {broken[0]}", "the training diverged"))
    identity = identify({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if identity is None:
        hint = "if timm has the network: coatnet train DATA --init FILE --model timm/NAME"
        findings.append(Finding("note", "the weights are of no member of the family", hint))
    else:
        facts["network"] = f"{identity.member} under {identity.form}'s names"
        facts["classes"] = str(identity.num_classes)
        hint = f"coatnet train DATA --init {path} --model {identity.member}"
        findings.append(Finding("note", "a file of weights says neither preprocessing nor class names", hint))
    return Examination("file of weights", facts, tuple(findings))


def _wrong(error: ModelFileError) -> Finding:
    return Finding("wrong", error.message, error.hint)


def _facts(contents: Contents) -> dict[str, str]:
    preprocess = contents.preprocess
    height, width = preprocess.image_size
    return {
        "network": f"{contents.config.layout}, made for {contents.config.image_size} px",
        "classes": f"{len(contents.labels)}: {some(contents.labels)}",
        "input": f"{height} x {width} px, {preprocess.resize}, {preprocess.interpolation}",
        "normalisation": f"mean {preprocess.mean}, deviation {preprocess.std}",
        "sha256": contents.fingerprint.sha256,
    }


def _earlier_preprocess(contents: Contents) -> Iterator[Finding]:
    """If the fixed image's stored input is not what preprocess.json gives: which settings do give it?"""
    stored = np.reshape(contents.fingerprint.input, (3, -1))
    if np.allclose(shown_input(contents.preprocess), stored, atol=0.02):
        return
    for name, candidate in _candidates(contents.preprocess):
        if np.allclose(shown_input(candidate), stored, atol=0.02):
            yield Finding("wrong", f"the weights were saved with {name}, which preprocess.json does not say any more")


def _candidates(preprocess: Preprocess) -> Iterator[tuple[str, Preprocess]]:
    """One setting changed at a time."""
    for name, (mean, std) in CONSTANTS.items():
        yield name, preprocess.replace(mean=mean, std=std)
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        yield f"interpolation {interpolation}", preprocess.replace(interpolation=interpolation)
    for resize in ("crop", "stretch", "pad"):
        yield f"resize {resize}", preprocess.replace(resize=resize)


def _names(classifier: Classifier) -> Iterator[Finding]:
    names = classifier.class_names
    if names == tuple(str(index) for index in range(len(names))):
        yield Finding("note", f"the classes are called 0 to {len(names) - 1}", "save it with class_names")


def _size(classifier: Classifier) -> Iterator[Finding]:
    config, (height, width) = _network(classifier).network_config, classifier.preprocess.image_size
    if (height, width) != (config.image_size, config.image_size):
        made = f"relative tables made for {config.image_size} px"
        yield Finding("note", f"images are fed at {height} x {width} px, with {made}: they are resized on the way")


def _training(classifier: Classifier) -> Iterator[Finding]:
    """Traces that training leaves, and an untrained network lacks."""
    model = _network(classifier)
    norm = _first_batch_norm(model)
    if norm is not None and not norm.running_mean.any() and bool((norm.running_var == 1).all()):
        yield Finding("wrong", "the network was never trained: its running statistics are as at the start", "train it")
    classes = [model.get_submodule(name) for name in classes_layers(model.network_config)]
    if any(layer.bias is not None and not layer.bias.any() for layer in classes):
        hint = "fine-tune it on images of these classes"
        yield Finding("wrong", "the layer of the classes was never trained: all its biases are exactly 0", hint)


def _normalisation(classifier: Classifier, sample: Sample) -> Iterator[Finding]:
    """Whether the images, normalised as stored, look to the first batch norm as those of training did."""
    norm = _first_batch_norm(_network(classifier))
    if norm is None:
        return
    pixels = np.stack([classifier.preprocess.resized(image) for image in sample.images])
    stored = _divergence(classifier, norm, classifier.preprocess, pixels)
    others = {
        name: _divergence(classifier, norm, classifier.preprocess.replace(mean=mean, std=std), pixels)
        for name, (mean, std) in CONSTANTS.items()
    }
    name = min(others, key=lambda one: others[one])
    told = f"the first batch norm is {stored:.2g} nats from what it saw in training"
    if stored > SUSPECT_DIVERGENCE and others[name] * SUSPECT_RATIO < stored:
        hint = f"with {name} it would be {others[name]:.2g}: give the weights the constants that they were trained with"
        yield Finding("wrong", f"these images look normalised with the wrong constants: {told}", hint)
    else:
        yield Finding("fine", f"the normalisation suits the weights: {told}")


def _divergence(classifier: Classifier, norm: Any, preprocess: Preprocess, pixels: NDArray[np.uint8]) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the channels that enter `norm` from its running statistics, both
    taken as normal distributions."""
    import torch

    seen: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        classifier.engine.logits(preprocess.normalized(pixels))
    finally:
        handle.remove()
    (entering,) = seen
    channels = entering.ndim - 1 if entering.shape[-1] == norm.num_features else 1
    flat = entering.float().movedim(channels, 0).flatten(1)
    mean, variance = flat.mean(1), flat.var(1) + norm.eps
    running_mean, running_variance = norm.running_mean, norm.running_var + norm.eps
    ratio = variance / running_variance
    return float((ratio - 1 - ratio.log() + (mean - running_mean) ** 2 / running_variance).mean() / 2)


def _answers(classifier: Classifier, sample: Sample) -> Iterator[Finding]:
    """Accuracy, and whether it would be much better with the class names in another order."""
    from scipy.optimize import linear_sum_assignment

    names = classifier.class_names
    unknown = sorted(set(sample.labels) - set(names))
    if unknown:
        told = f"{len(unknown)} classes of the data are unknown to it: {some(unknown)}"
        yield Finding("wrong", told, "take data of its classes")
        return
    answers = [answer.label for answer in classifier.predict(list(sample.images), top=1)]
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    position = {name: index for index, name in enumerate(names)}
    for label, answer in zip(sample.labels, answers, strict=True):
        counts[position[label], position[answer]] += 1
    right, total = int(np.trace(counts)), len(answers)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    renamed = int(counts[rows, columns].sum())
    accuracy = f"{right} of {total} images are named right"
    if renamed - right > total / 4:
        wrong = [(names[row], names[column]) for row, column in zip(rows, columns, strict=True) if row != column]
        pairs = ", ".join(f"{was} is called {called}" for was, called in wrong[:3])
        hint = f"{pairs}{', ...' if len(wrong) > 3 else ''}: take labels.json from the same save as the weights"
        yield Finding("wrong", f"the class names look permuted: {accuracy}, {renamed} with other names", hint)
    elif right <= 2 * total / len(set(sample.labels)):
        hint = "these are not its images, or not its weights"
        yield Finding("wrong", f"{accuracy}, hardly more than by chance", hint)
    else:
        yield Finding("fine", accuracy)


def _network(classifier: Classifier) -> Any:
    assert isinstance(classifier.engine, TorchEngine)
    return classifier.engine.model


def _first_batch_norm(model: Any) -> Any:
    from torch import nn

    return next((layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)), None)
