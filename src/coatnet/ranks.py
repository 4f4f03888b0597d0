"""Who am I among the processes of this run, and what they tell each other; without torchrun, rank 0 of 1."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coatnet.errors import ResourceError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
_CLOSED = re.compile(r"Connection (closed|reset) by peer|Broken pipe|connectFullMesh failed")
PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: they may still evaluate or write. A process that dies is seen at once."""


def rank() -> int:
    """This process's number, 0 to `world_size() - 1`, as torchrun sets it."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many processes of this run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world_size() -> int:
    """How many processes take part in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; nothing is done for one process.

    Raises:
        ResourceError: one of the others is gone.
    """
    if world_size() == 1:
        yield
        return
    import torch
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # documented, not typed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        # The addresses that an attempt before left in torchrun's store must not be taken for ours.
        store, own, count = next(rendezvous("env://", timeout=PATIENCE))
        attempt = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        torch.distributed.init_process_group(backend, timeout=PATIENCE, store=attempt, rank=own, world_size=count)
        yield
    except RuntimeError as error:
        # NCCL has a type of error for it, gloo only the words of the socket.
        if not isinstance(error, torch.distributed.DistError) and not _CLOSED.search(str(error)):
            raise
        raise ResourceError(
            "another process of this run is gone", "see what it said, then start them all again with coatnet resume"
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def is_joined() -> bool:
    """Whether there are other processes to talk to."""
    if world_size() == 1:
        return False
    import torch

    return torch.distributed.is_initialized()


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is set on any rank; all ranks get the same answer, so that all stop at the same step."""
    if not is_joined():
        return flags
    import torch

    found = torch.tensor([int(flag) for flag in flags])
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in found)


def from_main(value: Value) -> Value:
    """The main process's value, on every rank."""
    if not is_joined():
        return value
    import torch

    box: list[Any] = [value]
    torch.distributed.broadcast_object_list(box)
    return cast(Value, box[0])


def gathered(value: Value) -> list[Value]:
    """The values of all ranks in the order of the ranks, on every rank."""
    if not is_joined():
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks."""
    if not is_joined():
        return
    import torch

    for tensor in tensors:
        torch.distributed.all_reduce(tensor)
        tensor /= world_size()


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if is_joined():
        import torch

        torch.distributed.barrier()
