"""What computes logits: one interface, and the engine that runs a torch module.

Importing this file imports no torch; making a `TorchEngine` does.
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import ConfigError, MissingPartError, install_hint
from coatnet.ranks import local_rank, world_size
from coatnet.runtime.sharing import check_fork

if TYPE_CHECKING:
    import torch
    from torch import nn

Precision = Literal["float32", "bfloat16"]
Runtime = Literal["auto", "torch", "compiled", "onnx", "openvino"]
"""What computes: torch as it is, torch compiled by inductor, ONNX Runtime, OpenVINO; or the fastest of this machine."""
EXTRA = install_hint("export")
"""What brings the runtimes that are not torch."""


class Engine(ABC):
    """Preprocessed images in, logits out. Any number of threads may ask one engine at the same time."""

    description: str = ""
    """Runtime and precision in words, as "OpenVINO, bfloat16"."""

    @abstractmethod
    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            images: (B, 3, H, W) float32, normalised.

        Returns:
            (B, classes) float32, in the order of the images.
        """


class TorchEngine(Engine):
    """A torch module on one device, in eval mode and without gradients.

    The engine works on a copy, taken now: the module that it was lent keeps its mode, device and memory layout, and
    what is done to it later does not change the engine's answers.

    Args:
        model: (B, 3, H, W) float tensor -> (B, classes) logits.
        device: `auto` takes cuda, else mps, else cpu; or a name of torch's, such as `cuda:1`.
        precision: `float32`, or `bfloat16` for autocast; weights and logits stay float32 in both.
        copy: False hands the module over: the engine changes it in place and saves the memory of a copy. Only for a
            module that nothing else uses.

    Raises:
        ConfigError: an unknown device name or precision.
        MissingPartError: the named device is not in this machine.

    In a forked process the engine may be refused, see `check_fork`.
    """

    def __init__(
        self, model: "nn.Module", device: str = "auto", precision: Precision = "float32", *, copy: bool = True
    ) -> None:
        import torch

        if precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision {precision!r} is unknown.", "Choose float32 or bfloat16.")
        self.device = find_device(device)
        check_fork(self.device)
        self.precision: Precision = precision
        own = deepcopy(model) if copy else model
        self.model = own.eval().to(self.device).to(memory_format=torch.channels_last)
        self.description = f"torch on {self.device}, {precision}"

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 3, H, W) float32 -> (B, classes) float32."""
        import torch

        check_fork(self.device)
        batch = torch.from_numpy(np.require(images, requirements=("C", "W")))  # torch warns of what is read only
        batch = batch.to(self.device, memory_format=torch.channels_last)
        half = self.precision == "bfloat16"
        # no_grad, not inference_mode: what a guest keeps from here may be used in training later
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            found: NDArray[np.float32] = self.model(batch).float().cpu().numpy()
        return found


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether a device multiplies bfloat16 natively: on a CPU AMX or AVX-512."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and bool(native)


def find_device(name: str = "auto") -> "torch.device":
    """The device called `name`, or for `auto` the fastest kind in this machine: cuda, else mps, else cpu. Each process
    of a run has its own GPU.

    Raises:
        ConfigError: torch knows no such name.
        MissingPartError: this machine has no such device.
    """
    import torch

    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name in ("auto", "cuda") and counts["cuda"] and world_size() > 1:
        return torch.device("cuda", local_rank() % counts["cuda"])
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if counts[kind]))
    kind, _, index = name.partition(":")
    if kind not in counts or (index and not index.isdecimal()):
        raise ConfigError(f"device {name!r} is unknown.", f"Choose auto, {', '.join(counts)}, or cuda with a number.")
    if int(index or 0) >= counts[kind]:
        found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise MissingPartError(f"device {name!r} is not in this machine.", f"It has: {found}. Or choose device auto.")
    return torch.device(name)
