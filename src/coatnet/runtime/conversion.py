"""From a torch network to the forms that other engines run: ONNX, OpenVINO, torch's exported programs."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coatnet.errors import MissingPartError
from coatnet.model.coatnet import CoAtNet
from coatnet.quiet import ignore_warnings
from coatnet.runtime.engines import EXTRA
from coatnet.runtime.folding import fold
from coatnet.runtime.openvino_engine import import_openvino
from coatnet.runtime.sharing import TRACING

Kind = Literal["onnx", "openvino", "torch"]
SUFFIX: dict[Kind, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
OPSET = 20
"""Of ONNX: the first that has GELU as one operator."""
INPUT, BATCH = "images", "batch"
"""Names of the input and of its first axis."""
LARGEST_FILE = 2_000_000_000
"""Bytes that one ONNX file may hold: protocol buffers end at 2 GiB."""


def inference_form(model: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """What is converted: a member folded for the size, a guest as it is. On the CPU, in eval mode, a copy."""
    if isinstance(model, CoAtNet):
        return fold(model, image_size)
    return copy.deepcopy(model).eval().cpu().requires_grad_(False)


def convert(
    module: nn.Module, kind: Kind, shape: tuple[int, ...], path: Path, facts: Mapping[str, str] | None = None
) -> None:
    """Write a network in another form, its batch of any size, in float32. Its input is called `images`; its output
    `logits`, or `probabilities` if pixels go in. Nothing in the file tells of this machine's folders.

    Args:
        module: what `inference_form` gives, or a module around it.
        kind: the form.
        shape: of one input, as (3, H, W) for float32, or (H, W, 3) for uint8 pixels.
        path: the file, which ends as `SUFFIX` says; further files get its name with another ending.
        facts: what ONNX's metadata and OpenVINO's `coatnet` information say of the network.

    Raises:
        MissingPartError: a package that writes the form is not installed.
    """
    writer = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}[kind]
    example = torch.zeros(2, *shape, dtype=torch.float32 if shape[0] == 3 else torch.uint8)
    with TRACING, torch.no_grad(), _quiet():
        batch = torch.export.Dim(BATCH, min=1)
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        writer(program, example, path, facts or {})


def _output_name(example: Tensor) -> str:
    return "logits" if example.dtype == torch.float32 else "probabilities"


def _write_torch(program: torch.export.ExportedProgram, example: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source files on this machine
    torch.export.save(program, path)


def _write_onnx(program: torch.export.ExportedProgram, example: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ModuleNotFoundError as error:
        raise MissingPartError(f"{error.name} is not installed.", EXTRA) from None
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [_output_name(example)]}
    written = torch.onnx.export(program, (example,), dynamo=True, opset_version=OPSET, verbose=False, **names)
    assert written is not None
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    written.save(path, external_data=num_bytes > LARGEST_FILE)
    model = onnx.load(path, load_external_data=False)
    label_onnx(model, facts)
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def label_onnx(model: Any, facts: Mapping[str, str]) -> None:
    """Take out what torch tells of its source files and its graph, call the first axis `batch`, and write facts."""
    import onnx

    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for message in _messages(model):
        for name in ("metadata_props", "doc_string"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
        if isinstance(message, onnx.TensorShapeProto.Dimension) and message.HasField("dim_param"):
            message.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", BATCH, message.dim_param)
    onnx.helper.set_model_props(model, dict(facts))


def _messages(message: Any) -> Iterator[Any]:
    """A message of protocol buffers, and every one in it but tensors."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.name != "TensorProto":
            for part in value if field.is_repeated else [value]:
                yield from _messages(part)


def _write_openvino(
    program: torch.export.ExportedProgram, example: Tensor, path: Path, facts: Mapping[str, str]
) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(program)
    model.reshape({model.input(0): openvino.PartialShape([-1, *example.shape[1:]])})
    model.input(0).set_names({INPUT})
    model.output(0).set_names({_output_name(example)})
    label_openvino(model, facts)
    openvino.save_model(model, path, compress_to_fp16=False)


def label_openvino(model: Any, facts: Mapping[str, str]) -> None:
    """Write facts into a model's information, each below `coatnet`."""
    for name, fact in facts.items():
        model.set_rt_info(fact, ["coatnet", name])


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters log progress and warn of what is deprecated inside of them."""
    torch_log = logging.getLogger("torch")
    level = torch_log.level
    torch_log.setLevel(logging.ERROR)
    try:
        with ignore_warnings():
            yield
    finally:
        torch_log.setLevel(level)
