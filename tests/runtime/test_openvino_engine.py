"""What the engine changes in a network before OpenVINO compiles it, and what it hands out."""

import numpy as np
import pytest

from coatnet.runtime.conversion import convert, inference_form
from coatnet.runtime.engines import TorchEngine
from coatnet.runtime.openvino_engine import OpenVinoEngine
from runtime.test_folding import FORMS, lively


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network that attends, and its file."""
    model = lively(FORMS["paper"])
    path = tmp_path_factory.mktemp("network") / "64x64.xml"
    convert(inference_form(model, (64, 64)), "openvino", (3, 64, 64), path)
    return model, path


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)


def test_logits_are_those_of_the_network_and_stay(network):
    model, path = network
    engine = OpenVinoEngine(path)
    given = images(3)
    first = engine.logits(given)
    np.testing.assert_allclose(first, TorchEngine(model, "cpu").logits(given), atol=1e-5)
    kept = first.copy()
    engine.logits(2 * given)
    np.testing.assert_array_equal(first, kept)
