"""torch's compiler gives the logits of the network."""

import numpy as np
import pytest

from coatnet.errors import MissingPartError
from coatnet.runtime.compiled_engine import CompiledEngine
from coatnet.runtime.engines import TorchEngine
from runtime.test_folding import FORMS, lively


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own, about what it compiles with
def test_compiled_logits():
    model = lively(FORMS["paper"])
    images = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    expected = TorchEngine(model, "cpu").logits(images)
    exact, half = CompiledEngine(model, "cpu"), CompiledEngine(model, "cpu", "bfloat16")
    model.head.classes.weight.data.zero_()  # after the engines were made
    np.testing.assert_allclose(exact.logits(images), expected, atol=1e-4)
    rounded = half.logits(images)
    assert 0 < np.abs(rounded - expected).max() < 0.1 * expected.std()


def test_without_a_compiler_it_is_a_missing_part(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        MissingPartError, match=r"torch\.compile does not work here: there is no no-such-compiler"
    ) as error:
        CompiledEngine(lively(FORMS["paper"]), "cpu")
    assert "install a C++ compiler" in error.value.hint
