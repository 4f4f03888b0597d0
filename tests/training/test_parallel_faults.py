"""Two processes of which one is killed, and two that are told to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from coatnet.training.config import lay_over
from coatnet.training.recipes import small_data
from training.test_faults import WORKER, assert_log_is_whole, children, each, steps_told, stored
from training.test_loop import TINY, config, final, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def start_two(*words: object) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "--max-restarts", "1", WORKER, *map(str, words)], stderr=subprocess.PIPE, text=True
    )


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_processes_lose_nothing_to_a_stop_nor_to_a_kill(tmp_path: Path) -> None:
    chosen = lay_over(config(steps=40, save_every=7, evaluate_every=20, precision="float32"), data={"workers": 1})
    path, whole, folder = stored(chosen, tmp_path / "config.json"), tmp_path / "whole", tmp_path / "run"
    process = start_two("train", path, folder)
    wait_for(lambda: steps_told(folder) > 3, 300)
    process.terminate()  # the launcher tells its processes
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert said.count("everything is saved") == 2, said
    stopped = steps_told(folder)
    assert f"stopped after step {stopped} of 40" in said
    assert (folder / "checkpoints" / f"step-{stopped:09d}").is_dir()

    process = start_two("resume", folder)
    wait_for(lambda: steps_told(folder) > stopped + 8, 300)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: is_gone(ranks[0]), 60)
    print(f"gone after {time.monotonic() - began:.1f} s")
    _, said = process.communicate(timeout=300)  # the launcher starts both once more
    assert process.returncode == 0, said
    assert "this is a bug" not in said, said
    codes, said = each(["two", "train", str(path), str(whole)])
    assert codes == [0], said
    assert final(folder) == final(whole)
    assert_log_is_whole(folder, chosen)


def test_unreadable_images_are_counted_over_all_processes(tmp_path: Path) -> None:
    """One epoch, in which each process meets about half of them: less than is allowed."""
    folder = tmp_path / "shapes"
    for name, level in (("dark", 20), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (32, 32), (level + number % 50,) * 3).save(folder / name / f"{number:02d}.png")
        for number in range(0, 60, 8):
            (folder / name / f"{number:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    chosen = small_data(str(folder)).replace(model=TINY.replace(num_classes=2))
    pace = {"steps": 6, "batch_size": 16, "evaluate_every": 6, "device": "cpu"}
    chosen = lay_over(chosen, run=pace, data={"workers": 0, "max_bad": 0.09})
    codes, said = each(
        ["two", "train", str(stored(chosen, tmp_path / "config.json")), str(tmp_path / "run"), "uncached"]
    )
    assert codes == [3], said
    assert said.count("training images cannot be read") == 2  # both processes know, and neither says that one is gone
    assert "is gone" not in said


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
