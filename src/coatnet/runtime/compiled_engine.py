"""torch's compiler: the folded network through inductor. It takes a minute or two to start."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import MissingPartError
from coatnet.runtime.batches import in_batches
from coatnet.runtime.engines import Engine, Precision, find_device
from coatnet.runtime.sharing import TRACING, check_fork

if TYPE_CHECKING:
    import torch
    from torch import nn


class CompiledEngine(Engine):
    """A network compiled for each image size and for batches of 1 and 8, when they are first needed.

    Args:
        model: any network that `create_model` gives; it is copied, now: what is done to it later changes no answer.
        device: see `TorchEngine`.
        precision: `bfloat16` holds weights and activations in it.

    Raises:
        ConfigError: an unknown device name.
        MissingPartError: the named device, or a compiler, is not in this machine.
    """

    def __init__(self, model: nn.Module, device: str = "auto", precision: Precision = "float32") -> None:
        self._model = copy.deepcopy(model)
        self.device = find_device(device)
        check_fork(self.device)
        check_compiler(self.device)
        self.precision: Precision = precision
        self.description = f"torch compiled on {self.device}, {precision}"
        self._compiled: dict[tuple[int, int], Callable[[torch.Tensor], torch.Tensor]] = {}
        self._ready: set[tuple[int, ...]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle takes the network along, and compiles anew."""
        return type(self), (self._model, str(self.device), self.precision)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 3, H, W) float32 -> (B, classes) float32."""
        return in_batches(np.ascontiguousarray(images, np.float32), self._run)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        check_fork(self.device)
        if images.shape in self._ready:
            return self._compute(images)
        with TRACING:  # torch compiles when it first meets a shape
            found = self._compute(images)
            self._ready.add(images.shape)
        return found

    def _compute(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        size = (images.shape[2], images.shape[3])
        if size not in self._compiled:
            self._compiled[size] = self._compile(size, dtype)
        batch = torch.from_numpy(images).to(self.device, dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            found: NDArray[np.float32] = self._compiled[size](batch).float().cpu().numpy()
        return found

    def _compile(self, size: tuple[int, int], dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        import torch

        from coatnet.runtime.conversion import inference_form

        module = inference_form(self._model, size).to(self.device, dtype).to(memory_format=torch.channels_last)
        # Weights become constants that inductor lays out for the matrix products it calls.
        return torch.compile(module, dynamic=False, options={"freezing": True})


def check_compiler(device: torch.device) -> None:
    """See that torch.compile works here, on one line of code.

    Raises:
        MissingPartError: it does not.
    """
    import torch

    # Asked first: torch would take the line from an earlier compilation of it, if there was one.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise _no_compiler(f"there is no {compiler}")
    try:
        with TRACING:
            torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:  # the compiler's own, torch's of many kinds, the system's
        raise _no_compiler(str(error).strip().partition("\n")[0]) from None


def _no_compiler(reason: str) -> MissingPartError:
    return MissingPartError(
        f"torch.compile does not work here: {reason}",
        "install a C++ compiler such as g++, for a GPU triton too; or do without compiling",
    )
