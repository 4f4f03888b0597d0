"""A new classes layer that starts from what the frozen features already tell: a linear probe, before any step.

Fine-tuning from a random head first distorts good features to fit that head (Kumar et al. 2022, arXiv 2202.10054, whose
remedy this is). How well the probe tells the classes apart also says how far the features have to move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coatnet.data.loader import evaluation_batches
from coatnet.data.sources import Source
from coatnet.model.family import create_model
from coatnet.model.heads import classes_layers
from coatnet.runtime.engines import TorchEngine
from coatnet.training.config import TrainConfig
from coatnet.training.initial import initial_state

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Floats = NDArray[np.float64]
MOST_IMAGES = 2_000
"""Training images that the probe sees, spread evenly: one forward pass of them costs a part of an epoch of those runs
that have more, and 2,000 settle the layer well enough to start from."""
MOST_NUMBERS = 400_000
"""Images times classes that are fitted: beyond, a fit takes minutes, and there are few images for each class."""
STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Inverse strengths of the penalty that are compared, scikit-learn's C, on features of unit variance. With 1 the logits
are so large that the first steps of training, in which batch norms see other statistics, lose what was fitted."""
FOLDS = 4
"""Of the cross-validation: a quarter held out each time keeps three images of four for the fit."""
BATCH = 64


def start_from(
    config: TrainConfig, train: Source, device: torch.device
) -> tuple[TrainConfig, dict[str, Tensor] | None]:
    """What a run starts from: its config, told what became of a new head, and its initial weights, if it has any.

    Raises:
        ModelFileError: the source of the weights is gone, refused or not what it was.
        MissingPartError: published weights are not here any more.
    """
    if config.initial is None:
        return config, None
    state, carried = initial_state(config)
    if config.optimizer.new_head != "probe" or carried.kind != "new":
        return config, state
    probe = fit_probe(state, config, train, str(device))
    if probe is None:
        told = "starts at random: a class has one image, there are too many classes, or several layers"
        return config.replace(choices=(*config.choices, f"new head: {told}")), state
    told = f"starts from a linear probe, right on {probe.accuracy:.1%} of held-out training images"
    return config.replace(choices=(*config.choices, f"new head: {told}")), probe.state


class Probe(NamedTuple):
    """A classes layer fitted on frozen features."""

    state: dict[str, Tensor]
    """Of the whole network, with this layer in it."""
    accuracy: float
    """On training images that were held out, a fraction, by cross-validation."""


def fit_probe(state: Mapping[str, Tensor], config: TrainConfig, train: Source, device: str) -> Probe | None:
    """Fit the classes layer of a network on the features that it gives for training images, as they are.

    Args:
        state: of the network of `config`.
        config: the run.
        train: the training images.
        device: where the features are computed.

    Returns:
        None where there is nothing to fit: several classes layers, a class with one image, or too many classes.
    """
    sample = train.subset(np.unique(np.linspace(0, len(train) - 1, min(MOST_IMAGES, len(train))).astype(int)))
    layers, counts = classes_layers(config.model), np.bincount(sample.labels, minlength=len(config.class_names))
    if len(layers) != 1 or counts.min() < 2 or len(sample) * len(counts) > MOST_NUMBERS:
        return None
    features, labels = _features(state, config, sample, device)
    if features.ndim != 2 or np.bincount(labels, minlength=len(counts)).min() < 2:
        return None
    weight, bias, accuracy = fit_linear(features, labels)
    return Probe(_with_layer(state, layers[0], weight, bias), accuracy)


def fit_linear(features: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats, float]:
    """Logistic regression on standardised features, its penalty chosen by cross-validated log likelihood.

    Args:
        features: `(N, D)`.
        labels: `(N,)`, each of the K classes at least twice.

    Returns:
        Weight `(K, D)` and bias `(K,)` for the features as they are, and the accuracy on held-out images, a fraction.
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / deviation
    # The solution lies in the span of the samples: with fewer of them than features, coordinates in it are enough.
    basis = np.linalg.svd(scaled, full_matrices=False)[2] if len(scaled) < scaled.shape[1] else np.eye(scaled.shape[1])
    coordinates = scaled @ basis.T
    held_out = {strength: _held_out(coordinates, labels, strength) for strength in STRENGTHS}
    strength = max(held_out, key=lambda one: held_out[one][0])
    fitted = _regression(strength).fit(coordinates, labels)
    rows, bias = fitted.coef_, fitted.intercept_
    if len(rows) == 1:  # two classes: one row, of the difference
        rows, bias = np.concatenate([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
    weight = rows @ basis / deviation
    return weight, bias - weight @ mean, held_out[strength][1]


def _held_out(coordinates: Floats, labels: NDArray[np.int64], strength: float) -> tuple[float, float]:
    """Mean log likelihood, and accuracy, of samples that the fit did not see."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=0)
    probabilities = cross_val_predict(_regression(strength), coordinates, labels, cv=folds, method="predict_proba")
    own = probabilities[np.arange(len(labels)), labels]
    return float(np.log(np.maximum(own, 1e-12)).mean()), float((probabilities.argmax(1) == labels).mean())


def _regression(strength: float):  # type: ignore[no-untyped-def]  # noqa: ANN202 (scikit-learn has no types)
    from sklearn.linear_model import LogisticRegression

    # Held-out accuracy settles long before the last digits of the weights do.
    return LogisticRegression(C=strength, max_iter=1000, tol=1e-3)


def _features(
    state: Mapping[str, Tensor], config: TrainConfig, sample: Source, device: str
) -> tuple[Floats, NDArray[np.int64]]:
    """What the classes layer is given for each readable image, and its label."""
    network = create_model(config.model)
    network.load_state_dict(state)
    engine = TorchEngine(network, device, copy=False)
    seen: list[NDArray[np.float32]] = []
    engine.model.get_submodule(classes_layers(config.model)[0]).register_forward_pre_hook(
        lambda _, given: seen.append(given[0].detach().float().cpu().numpy())
    )
    labels = []
    for batch in evaluation_batches(sample, config.preprocess, BATCH, config.data.workers):
        if len(batch.indices):
            engine.logits(config.preprocess.normalized(batch.images))
            labels.append(sample.labels[batch.indices])
    return np.concatenate(seen).astype(np.float64), np.concatenate(labels)


def _with_layer(state: Mapping[str, Tensor], layer: str, weight: Floats, bias: Floats) -> dict[str, Tensor]:
    import torch

    fitted = {f"{layer}.weight": weight, f"{layer}.bias": bias}
    return {
        name: torch.as_tensor(fitted[name], dtype=tensor.dtype).reshape(tensor.shape) if name in fitted else tensor
        for name, tensor in state.items()
    }
