"""Two processes of which one is killed, and two that are told to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coatnet.training.config import lay_over
from training.test_faults import WORKER, assert_log_is_whole, children, each, steps_told, stored
from training.test_loop import config, final, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def start_two(*words: object) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen([*launcher, WORKER, *map(str, words)], stderr=subprocess.PIPE, text=True)


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_processes_lose_nothing_to_a_stop_nor_to_a_kill(tmp_path: Path) -> None:
    chosen = lay_over(config(steps=60, save_every=7, evaluate_every=20, precision="float32"), data={"workers": 1})
    path, whole, folder = stored(chosen, tmp_path / "config.json"), tmp_path / "whole", tmp_path / "run"
    process = start_two("train", path, whole)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said

    process = start_two("train", path, folder)
    wait_for(lambda: steps_told(folder) > 3, 300)
    process.terminate()  # the launcher tells its processes
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert said.count("everything is saved") == 2, said
    stopped = steps_told(folder)
    assert f"stopped after step {stopped} of 60" in said
    assert (folder / "checkpoints" / f"step-{stopped:09d}").is_dir()

    process = start_two("resume", folder)
    wait_for(lambda: steps_told(folder) > stopped + 8, 300)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: is_gone(ranks[0]), 60)
    _, said = process.communicate(timeout=120)
    print(f"gone after {time.monotonic() - began:.1f} s")
    assert process.returncode == 1
    assert "this is a bug" not in said, said
    assert steps_told(folder) < 60

    process = start_two("resume", folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert final(folder) == final(whole)
    assert_log_is_whole(folder, chosen)


@pytest.mark.slow
def test_from_two_processes_to_one_and_back(tmp_path: Path) -> None:
    """The one steps as they would: each image and draw at its place; only micro-batches differ, and batch norms."""
    path = stored(config(steps=30, save_every=5, evaluate_every=10), tmp_path / "config.json")
    folder = tmp_path / "run"
    process = start_two("train", path, folder)
    wait_for(lambda: steps_told(folder) > 3, 300)
    process.terminate()
    process.communicate(timeout=120)
    codes, said = each(["resume", str(folder), "signal SIGTERM torch.autograd:backward 5"])
    assert codes == [75], said
    process = start_two("resume", folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_log_is_whole(folder, config(steps=30, save_every=5, evaluate_every=10))
