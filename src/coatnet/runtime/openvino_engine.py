"""OpenVINO: the fastest engine on CPUs that have AMX or AVX-512 bfloat16. Imports no torch."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import ConfigError, MissingPartError, ModelFileError
from coatnet.runtime.batches import in_batches
from coatnet.runtime.engines import EXTRA, Precision
from coatnet.runtime.file_engine import FileEngine
from coatnet.runtime.openvino_passes import PIECE, biases_as_inputs, dense_as_convolutions, in_pieces, plain_gelu
from coatnet.runtime.sharing import forked_error, is_forked

COMPUTING: dict[Precision, dict[str, str]] = {
    # Attention that OpenVINO fuses into one of its snippets is inexact in float32: logits of 1 differ by 2e-3 in
    # networks whose tables and biases are not small, and by 1e-6 without snippets (tests/runtime).
    "float32": {"INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"},
    "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16"},
}
"""OpenVINO's options for each precision."""
_STARTING = threading.Lock()
"""Held while OpenVINO starts."""


class OpenVinoEngine(FileEngine):
    """A network in OpenVINO's form on the CPU.

    It is compiled for batches of 1 and of 8 images, each when it is first needed: with a batch that may have any size
    OpenVINO fuses less.

    Args:
        path: the .xml file; its weights lie beside it in the .bin file of the same name.
        precision: `bfloat16` computes in it inside; logits are float32 in both.

    Raises:
        MissingPartError: OpenVINO is not installed, or this CPU has no bfloat16.
        ModelFileError: OpenVINO cannot read the file.

    In a forked process an engine of the parent's goes on with what is compiled; a new one is refused.
    """

    def __init__(self, path: Path, precision: Precision = "float32") -> None:
        super().__init__(path, precision)
        if precision == "bfloat16" and not has_bfloat16():
            raise MissingPartError("This CPU does not compute in bfloat16.", "Take precision float32.")
        self.precision: Precision = precision
        self.description = f"OpenVINO, {precision}"
        try:
            self._model = _core().read_model(path)
            shape = self._model.input(0).get_partial_shape()
            self.image_size = (shape[2].get_length(), shape[3].get_length())
        except (RuntimeError, IndexError) as error:
            raise ModelFileError(f"{path} is refused: OpenVINO cannot read it: {_first_line(error)}") from None
        if precision == "bfloat16":
            plain_gelu(self._model)
            dense_as_convolutions(self._model)
        self._compiled: dict[int, _Compiled] = {}  # by batch size
        self._compiling = threading.Lock()

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 3, H, W) float32 -> (B, classes) float32."""
        check_size(images, self.image_size)
        return in_batches(np.ascontiguousarray(images, np.float32), self._run)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(images) > 1 and 1 in self._compiled and len(images) not in self._compiled and is_forked("openvino"):
            return np.concatenate([self._run(images[index : index + 1]) for index in range(len(images))])
        if len(images) not in self._compiled:
            with self._compiling:
                if len(images) not in self._compiled:
                    self._compiled[len(images)] = self._compile(len(images))
        return self._compiled[len(images)].infer(images)

    def _compile(self, batch_size: int) -> _Compiled:
        from openvino import PartialShape

        if is_forked("openvino"):  # to compile, it would wait for threads of its parent's; what is compiled runs
            raise forked_error("OpenVINO")
        model = self._model.clone()
        model.reshape({model.input(0): PartialShape([batch_size, 3, *self.image_size])})
        if batch_size > PIECE:
            in_pieces(model)
        biases = biases_as_inputs(model) if self.precision == "bfloat16" else []
        options = {**COMPUTING[self.precision], "PERFORMANCE_HINT": "LATENCY"}
        try:
            return _Compiled(_core().compile_model(model, "CPU", options), biases)
        except RuntimeError as error:
            raise ModelFileError(f"OpenVINO cannot compile the network: {_first_line(error)}") from None


class _Compiled:
    """A network compiled for one batch size. A request holds one batch: each call takes one that no other has."""

    def __init__(self, network: Any, biases: Sequence[Any]) -> None:
        self._network, self._biases = network, biases
        self._idle = deque([self._request()])  # as many as there ever were calls at the same time

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of one batch."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._request()
        found: NDArray[np.float32] = request.infer({0: images}, share_inputs=True)[0]  # without a copy of the images
        self._idle.append(request)  # one that failed is not used again
        return found

    def _request(self) -> Any:
        request = self._network.create_infer_request()
        for index, bias in enumerate(self._biases):
            request.set_input_tensor(1 + index, bias)
        return request


def import_openvino() -> Any:
    """The module.

    Raises:
        MissingPartError: it is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingPartError("OpenVINO is not installed.", EXTRA) from None
    return openvino


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16: AMX or AVX-512."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _core() -> Any:
    """OpenVINO with its plugins, which take time to start: one for all threads."""
    with _STARTING:
        return _started()


@functools.cache
def _started() -> Any:
    return import_openvino().Core()


def check_size(images: NDArray[np.float32], image_size: tuple[int, int]) -> None:
    """See that the images have the one size of a converted network.

    Raises:
        ConfigError: another one.
    """
    if images.shape[2:] != image_size:
        got, expected = ("{}x{}".format(*size) for size in (images.shape[2:], image_size))
        raise ConfigError(
            f"images of {got} pixels; this network was converted for {expected}",
            "give image_size when you load the classifier",
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "src/" not in line]
    return lines[0] if lines else type(error).__name__
