"""What a network can run on: runtimes by name, and the engine of each.

Importing this file imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from coatnet.errors import ConfigError
from coatnet.runtime.choice import choose_runtime
from coatnet.runtime.engines import Engine, Precision, TorchEngine

if TYPE_CHECKING:
    from torch import nn

RUNTIMES: dict[str, Precision] = {
    "torch-float32": "float32",
    "torch-bfloat16": "bfloat16",
    "compiled-float32": "float32",
    "compiled-bfloat16": "bfloat16",
    "onnx-float32": "float32",
    "openvino-float32": "float32",
    "openvino-bfloat16": "bfloat16",
}
"""Each runtime with the precision that it computes in."""
TORCH: tuple[str, ...] = ("torch-float32", "torch-bfloat16")
"""Those that need nothing but torch."""


def choose_runtimes(asked: Sequence[str], device: str = "auto") -> tuple[str, ...]:
    """The runtimes that were asked for, each once; if none was, torch's and what `predict` would take here.

    Raises:
        ConfigError: an unknown name.
    """
    for name in asked:
        if name not in RUNTIMES:
            raise ConfigError(f"there is no runtime {name!r}", f"choose from {', '.join(RUNTIMES)}")
    return tuple(dict.fromkeys(asked)) or (*TORCH, *_fastest(device))


def _fastest(device: str) -> tuple[str, ...]:
    chosen = choose_runtime("auto", device)
    if chosen == "openvino":
        from coatnet.runtime.openvino_engine import has_bfloat16

        return ("openvino-bfloat16" if has_bfloat16() else "openvino-float32",)
    return ("onnx-float32",) if chosen == "onnx" else ()


def create_engine(runtime: str, model: nn.Module, device: str, image_size: tuple[int, int]) -> Engine:
    """The engine of a runtime.

    Args:
        runtime: of `RUNTIMES`.
        model: what `create_model` gives; members are folded where the runtime is not torch as it is.
        device: see `TorchEngine`; ONNX Runtime and OpenVINO run on the CPU.
        image_size: height and width that it is converted for.

    Raises:
        MissingPartError: the device, or what the runtime needs, is not in this machine.
    """
    kind, precision = runtime.split("-")[0], RUNTIMES[runtime]
    if kind == "torch":
        return TorchEngine(model, device, precision)
    if kind == "compiled":
        from coatnet.runtime.compiled_engine import CompiledEngine

        return CompiledEngine(model, device, precision)
    return _converted(kind, model, precision, image_size)


def _converted(kind: str, model: nn.Module, precision: Precision, image_size: tuple[int, int]) -> Engine:
    from coatnet.runtime.conversion import convert, inference_form
    from coatnet.runtime.onnx_engine import OnnxEngine
    from coatnet.runtime.openvino_engine import OpenVinoEngine

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a file that is still open stays, on Windows
        form, shape = inference_form(model, image_size), (3, *image_size)
        if kind == "onnx":
            convert(form, "onnx", shape, path := Path(folder) / "network.onnx")
            return OnnxEngine(path)
        convert(form, "openvino", shape, path := Path(folder) / "network.xml")
        return OpenVinoEngine(path, precision)
