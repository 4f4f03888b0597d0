"""The precision that torch takes when nobody asks for one."""

import numpy as np
import pytest
import torch

from coatnet.classifier import Classifier
from coatnet.runtime.agreement import compare
from coatnet.runtime.compiled_engine import CompiledEngine
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own, about what it compiles with
def test_what_is_compiled_takes_bfloat16_likewise(tiny_classifier, monkeypatch):
    native = multiplies_bfloat16(torch.device("cpu"))
    exact = Classifier.load(tiny_classifier, "cpu")
    found = Classifier.load(tiny_classifier, "cpu", precision="auto", runtime="compiled")
    assert isinstance(found.engine, CompiledEngine)
    assert found.engine.precision == ("bfloat16" if native else "float32")
    height, width = exact.preprocess.image_size
    images = np.random.default_rng(0).normal(size=(9, 3, height, width)).astype(np.float32)
    agreement = compare(exact.logits(images), found.logits(images))
    assert agreement.relative_error < 0.05
    monkeypatch.setattr("coatnet.classifier.opening.BFLOAT16_LIMIT", 0.0)
    engine = Classifier.load(tiny_classifier, "cpu", precision="auto", runtime="compiled").engine
    assert isinstance(engine, CompiledEngine)
    assert engine.precision == "float32"
