"""Does a step fit into memory? What it needs, found out on a few images, against what is free before the first step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from coatnet.data.cache import free_memory
from coatnet.errors import ResourceError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.model.layers import ordered_layers
from coatnet.model.size import model_size
from coatnet.ranks import is_joined, local_world_size, world_size
from coatnet.training.config import TrainConfig
from coatnet.training.machine import choose_precision
from coatnet.training.trainer import train_mode

HOST_SHARE = 0.75
"""Share of a computer's free memory that steps may take: decoded images may take the other quarter (data/cache.py)."""
DEVICE_SHARE = 0.9
"""Share of a GPU's free memory that steps may take; the allocator loses some in gaps between blocks."""
BACKWARD_SHARE = 0.4
"""What the backward pass holds at its peak beside the saved maps, as a share of them: gradients of the maps that it is
at, workspaces of convolutions (measured, benchmarks/forecast.md)."""
_STATE_BYTES, _WEIGHT_BYTES = 16, 4
"""Of a parameter: weight, gradient and AdamW's two moments in float32; the weight alone."""
# Images of two trials, whose difference tells what grows from what does not; batch norms need two.
_TRIED = 2, 4


class StepMemory(NamedTuple):
    """Bytes that training takes on the device of one process, the program itself not counted."""

    fixed: int
    """Weights, gradients, moments of the optimizer, moving average: whatever the micro-batch."""
    per_image: int
    """Maps that the backward pass needs, for each image of a micro-batch."""

    def of(self, images: int) -> int:
        """For micro-batches of so many images."""
        return self.fixed + images * self.per_image


def step_memory(config: TrainConfig, device: torch.device) -> StepMemory:
    """Find out by the forward pass of a few images which maps it keeps; they grow with the number of images."""
    model = create_model(config.model).to(device)
    train_mode(model, config.optimizer.freeze == "body")
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    saved = [_kept_bytes(model, config, count, device) for count in _TRIED]
    per_image = (saved[1] - saved[0]) / (_TRIED[1] - _TRIED[0])
    copies = saved[0] - _TRIED[0] * per_image  # of weights, in another precision
    state = weights * (2 if config.optimizer.ema else 1) + trained * 3
    if config.run.shard == "parameters":  # and one copy of the weights: whole for evaluations, in blocks for steps
        fixed = state / world_size() + weights + copies
    else:
        fixed = state + copies + (trained if is_joined() else 0)
    return StepMemory(math.ceil(fixed), math.ceil(per_image * (1 + BACKWARD_SHARE)))


def _kept_bytes(model: nn.Module, config: TrainConfig, num_images: int, device: torch.device) -> int:
    """Of maps that a forward pass keeps for the backward pass. With `recompute`: the inputs of the blocks, and all maps
    of the block that has the most, which are there while it is computed again."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, int]] = {}  # storage -> its bytes, and the block that was running
    inputs: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept.setdefault(storage.data_ptr(), (storage.nbytes(), len(inputs)))
        return tensor

    def enter(block: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs.append(arguments[0].nbytes)

    blocks = ordered_layers(model)[1:] if config.run.recompute else []  # the stem's maps, number 0, stay
    hooks = [block.register_forward_pre_hook(enter) for block in blocks]
    images = torch.zeros(num_images, 3, *config.preprocess.image_size, device=device)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(
            device.type, torch.bfloat16, enabled=choose_precision(config.run.precision, device) == "bfloat16"
        ),
    ):
        logits = model(images.to(memory_format=torch.channels_last))  # alive, so that no storage is used twice
    for hook in hooks:
        hook.remove()
    del logits
    held = [sum(size for size, within in kept.values() if within == number) for number in range(len(blocks) + 1)]
    return held[0] + sum(inputs) + max(held[1:], default=0)


def available(device: torch.device) -> int:
    """Bytes that this process's steps may take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE)
    return int(free_memory() * HOST_SHARE) // local_world_size()


def fit(config: TrainConfig, device: torch.device, free: int | None = None) -> TrainConfig:
    """The same run with micro-batches that fit into memory; the batch of a step stays what it is.

    Args:
        config: of the run; `accumulate` "auto" becomes the smallest number, a power of two, with which a step fits.
        device: of the run.
        free: bytes that steps may take; default: `available`.

    Raises:
        ResourceError: they do not fit; the hint names what would.
    """
    free = available(device) if free is None else free
    if isinstance(config.model, CoAtNetConfig):  # counted before a network of that size is built
        config = _share_out(config, model_size(config.model).parameters, free)
        check_state(config, device, free)
    need = step_memory(config, device)
    batch, asked = config.run.batch_size, config.run.accumulate
    processes = world_size()
    fitting = next((parts for parts in _cuts(batch // processes) if need.of(batch // processes // parts) <= free), None)
    if asked == "auto" and fitting is not None:
        micro = batch // processes // fitting
        choice = (
            f"memory: micro-batches of {micro} images, {fitting} a step, need {gigabytes(need.of(micro))} "
            f"of {gigabytes(free)}"
        )
        return config.replace(run=config.run.replace(accumulate=fitting), choices=(*config.choices, choice))
    if asked != "auto" and need.of(batch // processes // asked) <= free:
        return config
    micro = batch // processes // (1 if asked == "auto" else asked)
    raise ResourceError(
        f"a step of {micro} images needs about {gigabytes(need.of(micro))} of memory, "
        f"and it may take {gigabytes(free)} of what is free on {device.type}",
        _hint(need, free, fitting),
    )


def check_state(config: TrainConfig, device: torch.device, free: int | None = None) -> None:
    """See that what a step needs whatever its batch is fits, by the numbers of the config alone.

    Args:
        config: of the run.
        device: of the run.
        free: bytes that steps may take; default: `available`.

    Raises:
        ResourceError: it does not fit.
    """
    free = available(device) if free is None else free
    if not isinstance(config.model, CoAtNetConfig):
        return
    weights = _state_bytes(model_size(config.model).parameters, config.run.shard)
    if weights > free:
        raise ResourceError(
            f"weights, gradients and moments need {gigabytes(weights)} of memory, "
            f"and a step may take {gigabytes(free)} of what is free on {device.type}",
            "take a smaller --model, or a machine with more memory",
        )


def _state_bytes(parameters: int, shard: str) -> int:
    """Of a process, for the state of a step and a copy of the weights if that is shared out."""
    if shard == "parameters":
        return _STATE_BYTES * parameters // world_size() + _WEIGHT_BYTES * parameters
    return _STATE_BYTES * parameters


def _share_out(config: TrainConfig, parameters: int, free: int) -> TrainConfig:
    """Settle `shard` "auto" of several processes: shared out only if the whole does not fit, for it costs time."""
    if config.run.shard != "auto" or not is_joined():
        return config
    need = _state_bytes(parameters, "none")
    if need <= free or config.run.compile or config.optimizer.freeze != "none":
        return config.replace(run=config.run.replace(shard="none"))
    choice = f"shard: parameters, the whole state of {gigabytes(need)} does not fit into {gigabytes(free)}"
    return config.replace(run=config.run.replace(shard="parameters"), choices=(*config.choices, choice))


def _cuts(batch: int) -> list[int]:
    """Numbers of micro-batches to try, powers of two: all of the same even size, for mixup pairs images and a batch
    norm needs two."""
    halvings = range(batch.bit_length())
    return [1, *(2**power for power in halvings if power and batch % 2 ** (power + 1) == 0)]


def _hint(need: StepMemory, free: int, fitting: int | None) -> str:
    most = (free - need.fixed) // need.per_image
    if most < 2:
        return "take a smaller --model or --image-size, or free memory"
    fits = f"a batch of {2 ** (int(most).bit_length() - 1)} would fit: give it as --batch"
    return f"{fits}, or keep the batch by --batch auto" if fitting else fits


def gigabytes(count: int) -> str:
    """ "1.52 GB", 10^9 bytes."""
    return f"{count / 1e9:.2f} GB"


def capacity(device: torch.device) -> int:
    """Bytes that this process could hold on the device: what is free, and what it holds now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    status = Path("/proc/self/status")
    own = int(status.read_text().split("VmRSS:")[1].split()[0]) * 1024 if status.exists() else 0
    return free_memory() + own
