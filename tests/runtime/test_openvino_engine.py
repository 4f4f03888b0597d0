"""What the engine changes in a network before OpenVINO compiles it, and what it hands out."""

from collections.abc import Sequence

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13

from coatnet.runtime.agreement import compare
from coatnet.runtime.conversion import convert, inference_form
from coatnet.runtime.engines import TorchEngine
from coatnet.runtime.openvino_engine import COMPUTING, OpenVinoEngine, has_bfloat16
from coatnet.runtime.openvino_passes import biases_as_inputs, dense_as_convolutions
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


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16")
def test_bfloat16_is_near_for_one_image_and_for_many(network):
    model, path = network
    engine, given = OpenVinoEngine(path, "bfloat16"), images(9)
    agreement = compare(TorchEngine(model, "cpu").logits(given), engine.logits(given))
    assert 1e-5 < agreement.relative_error < 0.03


def attending(places: int) -> openvino.Model:
    """A dense layer with a bias, attention with a constant bias, a dense layer without, and one before an activation;
    (B, places, 32) and all weights drawn."""
    draw = np.random.default_rng(0).normal
    given = opset13.parameter([-1, places, 32], np.float32, "tokens")
    wide = opset13.matmul(given, draw(size=(32, 96)).astype(np.float32), False, False)
    wide = opset13.add(wide, draw(size=96).astype(np.float32))
    heads = opset13.reshape(wide, [0, places, 3, 2, 16], True)
    parts = opset13.split(opset13.transpose(heads, [2, 0, 3, 1, 4]), 0, 3).outputs()
    query, key, value = (opset13.squeeze(part, [0]) for part in parts)
    bias = opset13.constant(draw(size=(1, 2, places, places)).astype(np.float32))
    attended = opset13.scaled_dot_product_attention(query, key, value, bias)
    joined = opset13.reshape(opset13.transpose(attended, [0, 2, 1, 3]), [0, places, 32], True)
    narrow = opset13.matmul(joined, draw(size=(32, 32)).astype(np.float32), False, True)
    activated = opset13.relu(
        opset13.matmul(opset13.add(narrow, given), draw(size=(32, 8)).astype(np.float32), False, False)
    )
    return openvino.Model([activated], [given], "attending")


def answer(model: openvino.Model, tokens: np.ndarray, further: Sequence[openvino.Tensor] = ()) -> np.ndarray:
    request = openvino.Core().compile_model(model, "CPU", COMPUTING["float32"]).create_infer_request()
    for index, tensor in enumerate(further):
        request.set_input_tensor(1 + index, tensor)
    return request.infer({0: tokens})[0].copy()


def kinds(model: openvino.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ops()]


def test_dense_layers_as_convolutions_compute_the_same():
    model, tokens = attending(6), np.random.default_rng(1).normal(size=(3, 6, 32)).astype(np.float32)
    expected = answer(model, tokens)
    dense_as_convolutions(model)
    assert kinds(model).count("Convolution") == 2
    assert kinds(model).count("MatMul") == 1  # the one whose activation is computed along with it
    np.testing.assert_allclose(answer(model, tokens), expected, rtol=1e-5, atol=1e-4)


def test_biases_as_inputs_are_the_constants_rounded_to_bfloat16():
    model, tokens = attending(6), np.random.default_rng(1).normal(size=(3, 6, 32)).astype(np.float32)
    (attention,) = (node for node in model.get_ops() if node.get_type_name() == "ScaledDotProductAttention")
    bias = attention.input_value(3).get_node().data.copy()
    expected = answer(model, tokens)
    (tensor,) = biases_as_inputs(model)
    rounded = torch.from_numpy(bias).bfloat16()
    np.testing.assert_array_equal(tensor.data.view(np.int16), rounded.view(torch.int16).numpy())
    got = answer(model, tokens, [tensor])
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
