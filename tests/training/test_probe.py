"""A new classes layer starts from a linear probe: the fit is scikit-learn's, and the run begins with what it tells."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from coatnet.model.tensors import read_tensors
from coatnet.training.config import lay_over
from coatnet.training.log import read_metrics
from coatnet.training.loop import train
from coatnet.training.probe import STRENGTHS, fit_linear
from coatnet.training.recipes import finetune, small_data
from training.test_initial import source


def blobs(classes: int, features: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Samples around a centre for each class, on axes of very different scales."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = generator.normal(size=(classes, features))
    scales = np.geomspace(1e-2, 1e2, features)
    return (centres[labels] + generator.normal(size=(count, features))) * scales + 5, labels


@pytest.mark.parametrize(("classes", "features"), [(3, 8), (3, 90), (2, 8), (2, 90)])
def test_the_fit_is_logistic_regression_on_standardised_features(classes: int, features: int) -> None:
    samples, labels = blobs(classes, features)
    weight, bias, accuracy = fit_linear(samples, labels)
    assert weight.shape == (classes, features)
    assert bias.shape == (classes,)
    scaled = (samples - samples.mean(0)) / samples.std(0)
    logits = samples @ weight.T + bias
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    plain = [LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(scaled, labels) for strength in STRENGTHS]
    nearest = min(float(np.abs(one.predict_proba(scaled) - found).max()) for one in plain)
    assert nearest < 5e-3
    assert 1 / classes < accuracy <= 1


def test_a_new_head_starts_from_the_probe_and_a_known_one_does_not(tmp_path: Path) -> None:
    pace = {"steps": 1, "batch_size": 16, "evaluate_every": 1, "log_every": 1, "device": "cpu", "patience": None}
    few = lay_over(finetune("digits", source(tmp_path / "source", ("a", "b", "c"))), run=pace, data={"workers": 0})
    assert few.optimizer.new_head == "probe"
    run = train(few, tmp_path / "probed")
    first = next(line for line in read_metrics(run.folder / "metrics.jsonl") if line.get("evaluation") == "val")
    assert first["step"] == 0
    assert first["top1"] > 0.4  # features of random weights tell digits; a random head would have 0.1
    assert (
        "new head: starts from a linear probe, right on"
        in json.loads((run.folder / "config.json").read_text())["choices"][-1]
    )
    initial = read_tensors(run.folder / "initial.safetensors")
    again = lay_over(finetune("digits", run.folder), run=pace, data={"workers": 0})
    train(again, tmp_path / "again")
    kept, scored = (
        read_tensors(tmp_path / "again" / "initial.safetensors"),
        read_tensors(run.classifier / "model.safetensors"),
    )
    assert all(torch.equal(kept[name], scored[name]) for name in kept)
    assert initial.keys() == kept.keys()


def test_a_probe_needs_initial_weights() -> None:
    with pytest.raises(ValidationError, match="new_head probe fits the features of initial weights"):
        lay_over(small_data("digits"), optimizer={"new_head": "probe"})
