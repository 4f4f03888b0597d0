import os
import subprocess
import sys
from pathlib import Path

from coatnet import ranks

AGREE = """
import sys, torch
from coatnet import ranks
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=ranks.rank(), world_size=2)
print(ranks.any_rank(ranks.rank() == 1, False), ranks.is_main())
torch.distributed.destroy_process_group()
"""


def test_without_torchrun_there_is_one_process() -> None:
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)
    assert ranks.any_rank(True, False) == (True, False)


def test_two_ranks_agree_on_a_flag(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AGREE, str(tmp_path / "meeting")],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert said == ["(True, False) True", "(True, False) False"]
