"""From a torch network to the forms that other engines run: ONNX, OpenVINO, torch's exported programs."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coatnet.errors import MissingPartError
from coatnet.model.coatnet import CoAtNet
from coatnet.runtime.engines import EXTRA
from coatnet.runtime.folding import fold
from coatnet.runtime.openvino_engine import import_openvino

Kind = Literal["onnx", "openvino", "torch"]
SUFFIX: dict[Kind, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
OPSET = 20
"""Of ONNX: the first that has GELU as one operator."""
LARGEST_FILE = 2_000_000_000
"""Bytes that one ONNX file may hold: protocol buffers end at 2 GiB."""


def inference_form(model: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """What is converted: a member folded for the size, a guest as it is. On the CPU, in eval mode, a copy."""
    if isinstance(model, CoAtNet):
        return fold(model, image_size)
    return copy.deepcopy(model).eval().cpu().requires_grad_(False)


def convert(module: nn.Module, kind: Kind, shape: tuple[int, ...], path: Path) -> None:
    """Write a network in another form, its batch of any size, in float32.

    Args:
        module: what `inference_form` gives, or a module around it.
        kind: the form.
        shape: of one input, as (3, H, W) for float32, or (H, W, 3) for uint8 pixels.
        path: the file, which ends as `SUFFIX` says; further files get its name with another ending.

    Raises:
        MissingPartError: a package that writes the form is not installed.
    """
    writer = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}[kind]
    example = torch.zeros(2, *shape, dtype=torch.float32 if shape[0] == 3 else torch.uint8)
    with torch.no_grad(), _quiet():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        writer(program, example, path)


def _write_torch(program: torch.export.ExportedProgram, example: Tensor, path: Path) -> None:
    torch.export.save(program, path)


def _write_onnx(program: torch.export.ExportedProgram, example: Tensor, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ModuleNotFoundError as error:
        raise MissingPartError(f"{error.name} is not installed.", EXTRA) from None
    output = "logits" if example.dtype == torch.float32 else "probabilities"
    names: dict[str, Any] = {"input_names": ["images"], "output_names": [output]}
    written = torch.onnx.export(program, (example,), dynamo=True, opset_version=OPSET, **names)
    assert written is not None
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    written.save(path, external_data=num_bytes > LARGEST_FILE)
    onnx.checker.check_model(path, full_check=True)


def _write_openvino(program: torch.export.ExportedProgram, example: Tensor, path: Path) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(program)
    model.reshape({model.input(0): openvino.PartialShape([-1, *example.shape[1:]])})
    openvino.save_model(model, path, compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters print progress and warn of what is deprecated inside of them."""
    torch_log = logging.getLogger("torch")
    level = torch_log.level
    torch_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_log.setLevel(level)
