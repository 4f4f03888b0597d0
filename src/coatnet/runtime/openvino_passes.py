"""What is changed in a network before OpenVINO compiles it, so that its CPU kernels fit. Imports no torch.

What each change is worth: benchmarks/inference_speed.md. A network without the pattern is left as it is.
Shapes: B batch, N tokens, C and O channels before and after a dense layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 2
"""Images at once in the stem and S1, whose maps are the largest: those of 8 images do not stay in the cores' caches."""
HALF = 0x8000
"""Half of the last bit that bfloat16 keeps of float32's."""


def plain_gelu(model: Any) -> None:
    """GELU in its exact form in place of tanh's, which takes longer here (benchmarks/inference_speed.md). They differ
    by 5e-4 at most, where bfloat16 rounds by up to 8e-3."""
    from openvino import opset13
    from openvino.utils import replace_node

    for node in model.get_ops():
        if node.get_type_name() == "Gelu" and node.get_attributes().get("approximation_mode", "").lower() == "tanh":
            replace_node(node, opset13.gelu(node.input_value(0), "erf"))


def dense_as_convolutions(model: Any) -> None:
    """Dense layers on tokens as 1x1 convolutions, whose kernels are faster for the few tokens of one image. Those with
    an activation behind them stay: it would no longer be computed along with them."""
    from openvino import opset13
    from openvino.utils import replace_node

    for node in model.get_ops():
        if not _is_dense_on_tokens(node):
            continue
        weight = node.input_value(1).get_node().data
        weight_OC = weight if node.get_attributes()["transpose_b"] else weight.T
        addition, bias_O = _bias_behind(node, len(weight_OC))
        last = addition or node
        if any(user.get_node().get_input_size() == 1 for user in last.output(0).get_target_inputs()):
            continue
        x_BN1C = opset13.unsqueeze(node.input_value(0), opset13.constant([2]))
        x_BCN1 = opset13.transpose(x_BN1C, opset13.constant([0, 3, 1, 2]))
        kernel_OC11 = opset13.constant(np.ascontiguousarray(weight_OC[:, :, None, None]))
        y_BON1 = opset13.convolution(x_BCN1, kernel_OC11, [1, 1], [0, 0], [0, 0], [1, 1])
        if addition is not None:
            y_BON1 = opset13.add(y_BON1, opset13.constant(bias_O.reshape(1, -1, 1, 1)))
        y_BN1O = opset13.transpose(y_BON1, opset13.constant([0, 2, 3, 1]))
        replace_node(last, opset13.squeeze(y_BN1O, opset13.constant([2])))
    model.validate_nodes_and_infer_types()


def _is_dense_on_tokens(node: Any) -> bool:
    """Whether this multiplies (B, N, C) with one constant matrix."""
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
        return False
    tokens, weight = node.input_value(0).get_partial_shape(), node.input_value(1).get_node()
    return (
        tokens.rank.is_static
        and len(tokens) == 3
        and weight.get_type_name() == "Constant"
        and len(weight.output(0).shape) == 2
    )


def _bias_behind(dense: Any, channels: int) -> tuple[Any, Any]:
    """The addition of a dense layer's bias, and the bias; None of both if it has none."""
    users = [user.get_node() for user in dense.output(0).get_target_inputs()]
    if len(users) == 1 and users[0].get_type_name() == "Add":
        for index in range(2):
            added = users[0].input_value(index).get_node()
            if added.get_type_name() == "Constant" and added.data.size == channels:
                return users[0], added.data
    return None, None


def biases_as_inputs(model: Any) -> list[Any]:
    """The relative biases of attention as further inputs in bfloat16, because OpenVINO keeps constants beside queries
    and keys in float32: twice the memory to read.

    Returns:
        What to set these inputs to, from the second on.
    """
    from openvino import Shape, Tensor, Type, opset13

    inputs, tensors = [], []
    for node in model.get_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        bias = node.input_value(3).get_node()
        if bias.get_type_name() != "Constant" or bias.get_element_type() != Type.f32:
            continue
        shape = list(bias.output(0).shape)
        given = opset13.parameter(shape, Type.bf16)
        node.input(3).replace_source_output(opset13.convert(given, Type.f32).output(0))
        inputs.append(given)
        tensor = Tensor(Type.bf16, Shape(shape))
        tensor.data[...] = _to_bfloat16(bias.data).view(tensor.data.dtype)
        tensors.append(tensor)
    model.add_parameters(inputs)
    model.validate_nodes_and_infer_types()
    return tensors


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite numbers in bfloat16, rounded to the nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(HALF)) >> np.uint32(16)).astype(np.uint16)


def in_pieces(model: Any) -> None:
    """Let stem and S1 take a few images after the other, the rest of the network all of them.

    The cut is behind the last sum at a quarter of the image's height, which ends S1. A network that has none, or of
    which more than this one map goes on, is left whole.
    """
    from openvino import Model, PartialShape, opset13

    given = model.get_parameters()[0]
    num_images, channels, height, width = given.output(0).shape
    cut = next((node for node in reversed(model.get_ordered_ops()) if _is_sum(node, -(-height // 4))), None)
    if cut is None or _goes_past(model, given, cut):
        return
    front = Model([cut.output(0)], [given], "front").clone()
    front.reshape({front.input(0): PartialShape([PIECE, channels, height, width])})
    users = [user for user in cut.output(0).get_target_inputs() if user.get_node().get_type_name() != "Result"]
    pieces = opset13.split(given, opset13.constant(0), num_images // PIECE)
    done = []
    for index in range(num_images // PIECE):
        piece = front.clone()
        for user in piece.get_parameters()[0].output(0).get_target_inputs():
            user.replace_source_output(pieces.output(index))
        done.append(piece.get_results()[0].input_value(0))
    joined = opset13.concat(done, 0)
    for user in users:
        user.replace_source_output(joined.output(0))
    model.validate_nodes_and_infer_types()


def _is_sum(node: Any, height: int) -> bool:
    """Whether this is the sum of two maps of this height."""
    if node.get_type_name() != "Add" or len(node.output(0).shape) != 4 or node.output(0).shape[2] != height:
        return False
    return all(node.input_value(index).get_node().get_type_name() != "Constant" for index in range(2))


def _goes_past(model: Any, given: Any, cut: Any) -> bool:
    """Whether the results depend on the input in another way than through the cut."""
    waiting, seen = list(model.get_results()), {cut.get_name()}
    while waiting:
        node = waiting.pop()
        for index in range(node.get_input_size()):
            before = node.input_value(index).get_node()
            if before.get_name() == given.get_name():
                return True
            if before.get_name() not in seen:
                seen.add(before.get_name())
                waiting.append(before)
    return False
