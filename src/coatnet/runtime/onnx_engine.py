"""ONNX Runtime, and the gate that an ONNX file passes before it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import MissingPartError, ModelFileError
from coatnet.runtime.engines import EXTRA
from coatnet.runtime.file_engine import FileEngine
from coatnet.runtime.openvino_engine import check_size

ERRORS_ONLY = 3
"""ONNX Runtime's severity: warnings speak of the graph, not to users."""


class OnnxEngine(FileEngine):
    """An ONNX file on the CPU, in float32.

    Args:
        path: the file; tensors of more than 2 GB may lie beside it in a file of the same name with `.data`.

    Raises:
        MissingPartError: ONNX Runtime is not installed.
        ModelFileError: the file is refused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        runtime = import_onnxruntime()
        check_onnx(path)
        options = runtime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0]
            _, _, height, width = self._input.shape
            self.image_size = (int(height), int(width))
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelFileError(f"{path} is refused: ONNX Runtime cannot read it: {error!s:.200}") from None
        self.description = "ONNX Runtime, float32"

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 3, H, W) float32 -> (B, classes) float32."""
        check_size(images, self.image_size)
        found: NDArray[np.float32] = self._session.run(None, {self._input.name: np.ascontiguousarray(images)})[0]
        return found


def import_onnxruntime() -> Any:
    """The module.

    Raises:
        MissingPartError: it is not installed.
    """
    try:
        import onnx  # noqa: F401 (the gate needs it)
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingPartError("ONNX Runtime is not installed.", EXTRA) from None
    return onnxruntime


def check_onnx(path: Path) -> None:
    """See that an ONNX file names no file but its own `.data`, and is what it says it is.

    Raises:
        ModelFileError: it is refused.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's own error, of a package without types
        raise ModelFileError(f"{path} is refused: it is not an ONNX file.") from None
    beside = path.with_name(f"{path.name}.data")
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if place != beside.name or not beside.is_file():
            raise ModelFileError(
                f"{path} is refused: it takes tensors from {place!r:.100}; only {beside.name!r} beside it is read.",
                "Export it again.",
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of a model, wherever it stands: initializers, attributes, subgraphs, functions, training parts."""
    import onnx

    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else [value]:
            if isinstance(part, onnx.TensorProto):
                yield part
            else:
                yield from _tensors(part)
