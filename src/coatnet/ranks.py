"""Who am I among the processes of this run. Without torchrun there is one process: rank 0 of 1."""

import os


def rank() -> int:
    """This process's number, 0 to `world_size() - 1`, as torchrun sets it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes take part in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    return rank() == 0


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; all ranks get the same answer, so that all stop at the same step."""
    if world_size() == 1:
        return flag
    import torch

    found = torch.tensor(int(flag))
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found)
