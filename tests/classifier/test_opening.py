"""The precision that torch takes when nobody asks for one."""

import torch

from coatnet.classifier import Classifier
from coatnet.runtime.engines import TorchEngine, multiplies_bfloat16


def test_bfloat16_is_taken_where_the_cpu_multiplies_it(tiny_classifier):
    native = multiplies_bfloat16(torch.device("cpu"))
    engine = Classifier.load(tiny_classifier, "cpu", precision="auto").engine
    assert isinstance(engine, TorchEngine)
    assert engine.precision == ("bfloat16" if native else "float32")


def test_float32_is_taken_where_the_error_is_large(tiny_classifier, monkeypatch):
    monkeypatch.setattr("coatnet.classifier.opening.BFLOAT16_LIMIT", 0.0)
    assert Classifier.load(tiny_classifier, "cpu", precision="auto").engine.precision == "float32"


def test_float32_is_taken_where_bfloat16_is_not_native(tiny_classifier, monkeypatch):
    monkeypatch.setattr("coatnet.classifier.opening.multiplies_bfloat16", lambda device: False)
    assert Classifier.load(tiny_classifier, "cpu", precision="auto").engine.precision == "float32"
