"""Weights, gradients, moments and averages shared out over the processes (FSDP2), and made whole again.

Each process keeps its share of every parameter; what a block needs is gathered before it runs and let go after it.
Where nothing is shared out, all functions give back what they were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from coatnet.model.coatnet import CoAtNet
from coatnet.model.family import ModelConfig, create_model
from coatnet.model.layers import ordered_layers
from coatnet.ranks import is_joined, is_main, world_size

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, device: torch.device) -> None:
    """Keep this process's share of the parameters only; buffers stay whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    model.to(memory_format=torch.contiguous_format)  # FSDP2 shares out no other layout
    for block in ordered_layers(model) if isinstance(model, CoAtNet) else ():  # a guest is gathered at once
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shard_average(ema: ModelEmaV3, device: torch.device) -> None:
    """Keep this process's share of a moving average only."""
    shard(ema.module, device)
    ema.foreach = False  # buffers are not shared out, and a list must not hold both


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was done to it."""
    if not is_joined():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def own_share(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    shares = _shares(tensor)
    return tensor if shares is None else shares.to_local()


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the shares of all processes, each of which must ask."""
    shares = _shares(tensor)
    return tensor if shares is None else shares.full_tensor()


def whole_on_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the shares of all processes, on the main one, which moves them to the CPU; nothing on the others.
    Each process must ask."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        complete = tensor if _shares(tensor) is None else whole(tensor).cpu()
        if is_main():
            found[name] = complete
    return found


def as_shares_of(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's share of a whole tensor that every process has, shared out as `example` is."""
    shares = _shares(example)
    if shares is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    local = tensor.to(shares.device)
    return distribute_tensor(local, shares.device_mesh, shares.placements, src_data_rank=None)


def whole_network(model: nn.Module, config: ModelConfig, device: torch.device) -> nn.Module:
    """A network of its own on each process, for evaluations, whose batches need not be equally many: a shared one would
    wait in each block for the others. Itself where it is not shared out."""
    if not is_sharded(model):
        return model
    network = create_model(config).to(device)
    network.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})
    return network


def _shares(tensor: Tensor) -> DTensor | None:
    """The tensor as one that is shared out, if it is."""
    if not is_joined():
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None
