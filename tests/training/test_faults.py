"""Runs that are killed, stopped, starved of disk and robbed of workers, and end as if nothing had happened."""

import atexit
import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder
from training.test_loop import config, final, wait_for

WORKER = str(Path(__file__).with_name("worker.py"))


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, WORKER, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def each(*runs: list[str]) -> tuple[list[int], str]:
    """The exit codes of several processes one after another, and what they said."""
    with tempfile.NamedTemporaryFile() as said:
        pipes = server()
        pipes.stdin.write(json.dumps([said.name, runs]) + "\n")
        pipes.stdin.flush()
        return json.loads(pipes.stdout.readline()), Path(said.name).read_text()


@functools.cache
def server() -> subprocess.Popen[str]:
    """One process that has imported everything, for all tests."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, WORKER, "serve"], stdin=pipe, stdout=pipe, text=True)
    atexit.register(process.__exit__, None, None, None)  # closes its input, at which it ends
    return process


def stored(chosen: TrainConfig, path: Path) -> Path:
    path.write_text(chosen.model_dump_json())
    return path


def steps_saved(folder: Path) -> int:
    """Of the newest checkpoint that was moved to its place."""
    names = [path.name for path in folder.glob("checkpoints/step-*") if path.suffix != ".tmp"]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def steps_told(folder: Path) -> int:
    """Of the last whole line in metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def assert_log_is_whole(folder: Path, chosen: TrainConfig) -> None:
    """Every line parses, every step and evaluation is there once and in order."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    run = chosen.run
    assert run.steps
    assert run.evaluate_every
    assert [line["step"] for line in lines if "evaluation" not in line] == list(range(1, run.steps + 1))
    evaluated = [line["step"] for line in lines if "evaluation" in line]
    assert evaluated == [step for step in range(1, run.steps + 1) if step % run.evaluate_every == 0]


def killed_until_it_ends(config_path: Path, folder: Path, draws: random.Random, most: int, seconds: float) -> int:
    """Run and resume, with a kill -9 after a time drawn from 0 to `seconds`, `most` times or until the run ends."""
    chosen = TrainConfig.model_validate_json(config_path.read_bytes())
    assert chosen.run.save_every
    for kills in range(most + 1):
        words = ["resume", str(folder)] if RunFolder(folder).exists() else ["train", str(config_path), str(folder)]
        codes, said = each([*words, f"kill {draws.uniform(0, seconds)}"] if kills < most else words)
        if codes == [0]:
            return kills
        assert codes == [-signal.SIGKILL], said
        assert steps_told(folder) - steps_saved(folder) <= chosen.run.save_every
    raise AssertionError("it was not killed, and did not end")


@pytest.mark.parametrize(
    ("kind", "count"), [(0, 2), *(pytest.param(kind, 10, marks=pytest.mark.slow) for kind in range(10))]
)
def test_killed_at_any_time_it_ends_the_same(tmp_path: Path, kind: int, count: int) -> None:
    """In the slow ones, 100 kills over at least 10 runs, of several paces of checkpoints, without and with a worker."""
    pace = {"steps": 40, "save_every": (2, 1, 5)[kind % 3], "evaluate_every": 10}
    chosen = lay_over(config(**pace), data={"workers": kind % 2})
    path, whole = stored(chosen, tmp_path / "config.json"), tmp_path / "whole"
    each()  # the server has started when it answers
    began = time.monotonic()
    assert each(["train", str(path), str(whole)])[0] == [0]
    seconds = time.monotonic() - began
    draws, kills, run = random.Random(f"{kind} {count}"), 0, 0
    while kills < count:
        folder = tmp_path / f"run{run}"
        kills += killed_until_it_ends(path, folder, draws, count - kills, seconds)
        assert final(folder) == final(whole)
        assert_log_is_whole(folder, chosen)
        run += 1
    print(f"{kills} kills over {run} runs", flush=True)


# Before which call of which function the stop comes, and how many calls from there on a run has at least.
PHASES = {
    "start-up": ("coatnet.training.loop:open_data", 1, 1),
    "first batch": ("coatnet.data.workers:_Worker.answer", 1, 1),
    "data wait": ("coatnet.data.workers:_Worker.answer", 3, 10),
    "mid-step": ("torch.autograd:backward", 2, 10),
    "evaluation": ("coatnet.runtime.engines:TorchEngine.logits", 1, 8),
    "saving": ("os:fsync", 3, 10),
    "last step": ("torch.autograd:backward", 12, 1),
    "final score": ("coatnet.training.loop:take_score", 1, 1),
}


@pytest.mark.parametrize(
    "turns", [range(1), pytest.param(range(10), marks=pytest.mark.slow)], ids=["once", "ten times"]
)
def test_a_stop_in_every_phase_loses_nothing(tmp_path: Path, turns: range) -> None:
    chosen = lay_over(config(), data={"workers": 1})
    path = str(stored(chosen, tmp_path / "config.json"))
    runs, folders = [["train", path, str(tmp_path / "whole")]], []
    for phase, (place, first, calls) in PHASES.items():
        for turn in turns:
            folder = str(tmp_path / f"{phase} {turn}")
            again = ["train", path, folder] if phase == "start-up" else ["resume", folder]
            runs += [["train", path, folder, f"signal SIGTERM {place} {first + turn % calls}"], again]
            folders.append(folder)
    codes, said = each(*runs)
    assert codes == [0, *[75, 0] * len(folders)], said
    assert said.count("nothing was written") == len(turns)
    assert said.count("everything is saved") == len(folders) - len(turns)
    for folder in folders:
        assert final(Path(folder)) == final(tmp_path / "whole"), folder
        assert_log_is_whole(Path(folder), chosen)


def test_the_best_evaluation_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    """Stopped in an evaluation, killed after it: the run still knows of it, and how long it has been patient."""
    chosen = config(patience=1, steps=12, evaluate_every=4, save_every=4)
    path, folder = str(stored(chosen, tmp_path / "config.json")), str(tmp_path / "run")
    logits, step = "coatnet.runtime.engines:TorchEngine.logits", "torch.autograd:backward"
    codes, said = each(
        ["train", path, str(tmp_path / "whole")],
        ["train", path, folder, f"signal SIGTERM {logits} 1"],
        ["resume", folder, f"signal SIGKILL {step} 1"],
        ["resume", folder],
    )
    assert codes == [0, 75, -signal.SIGKILL, 0], said
    assert final(Path(folder)) == final(tmp_path / "whole")


def test_a_start_that_was_killed_does_not_stand_in_the_way(tmp_path: Path) -> None:
    path, folder = str(stored(config(steps=2, evaluate_every=2), tmp_path / "config.json")), str(tmp_path / "run")
    killed = ["train", path, folder, "signal SIGKILL coatnet.training.folder:Path.write_text 2"]
    assert each(killed, ["train", path, folder])[0] == [-signal.SIGKILL, 0]


def test_a_full_disk_ends_the_run_and_not_the_work(tmp_path: Path) -> None:
    path, folder = str(stored(config(), tmp_path / "config.json")), tmp_path / "run"
    stop = "signal SIGTERM torch.autograd:backward 7"
    codes, said = each(["train", path, str(tmp_path / "whole")], ["train", path, str(folder), stop])
    assert codes == [0, 75], said
    largest = max(file.stat().st_size for file in folder.glob("checkpoints/*/*"))
    log = (folder / "metrics.jsonl").stat().st_size
    faults = ([f"disk {largest - 1}"], [f"disk {log + 10}"], [])
    codes, said = each(*(["resume", str(folder), *fault] for fault in faults))
    assert codes == [7, 7, 0], said
    assert f"no room for the checkpoint {folder / 'checkpoints' / 'step-000000010'}: File too large" in said
    assert f"no room for a line of {folder / 'metrics.jsonl'}" in said
    assert final(folder) == final(tmp_path / "whole")
    assert_log_is_whole(folder, config())


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are there on Linux only")
def test_a_data_worker_that_is_killed_ends_the_run_and_not_the_work(tmp_path: Path) -> None:
    chosen = lay_over(config(steps=40, save_every=10, evaluate_every=20), data={"workers": 2})
    path, folder = stored(chosen, tmp_path / "config.json"), tmp_path / "run"
    process = start("train", path, folder)
    wait_for(lambda: steps_told(folder) > 11, 300)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 7, said
    assert "A process that prepares images died at step" in said
    assert each(["resume", str(folder)], ["train", str(path), str(tmp_path / "whole")])[0] == [0, 0]
    assert final(folder) == final(tmp_path / "whole")


def checkpoint(folder: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    files = (folder / "checkpoints" / f"step-{step:09d}").glob("*.safetensors")
    return {f"{file.stem} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_step_that_is_not_a_number_updates_nothing(tmp_path: Path) -> None:
    chosen = config(save_every=1, keep_checkpoints=99, steps=6, evaluate_every=6)
    path, folder = str(stored(chosen, tmp_path / "config.json")), tmp_path / "run"
    codes, said = each(["train", path, str(folder), "nan 4"])
    assert codes == [0], said
    assert "step 4: the gradient is not finite, nothing was updated" in said
    before, after, later = (checkpoint(folder, step) for step in (3, 4, 5))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert any(not torch.equal(tensor, later[name]) for name, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in later.values())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "evaluation" not in line] == [1, 2, 3, 5, 6]


def test_three_in_a_row_end_the_run_also_over_a_stop(tmp_path: Path) -> None:
    path = str(stored(config(save_every=1, steps=9, evaluate_every=9), tmp_path / "config.json"))
    at_once, stopped = tmp_path / "at once", tmp_path / "stopped"
    codes, said = each(
        ["train", path, str(at_once), "nan 2,3,5,6,7"],
        ["train", path, str(stopped), "nan 2,3", "signal SIGTERM torch.autograd:backward 3"],
        ["resume", str(stopped), "nan 1"],
    )
    assert codes == [6, 75, 6], said
    assert "the gradient of step 7 is not finite (loss nan), nor those of the 2 steps before it" in said
    assert "the gradient of step 4 is not finite (loss nan)" in said
    for folder in (at_once, stopped):
        assert all(tensor.isfinite().all() for tensor in checkpoint(folder, steps_saved(folder)).values())


@pytest.mark.parametrize("rate", [1e10, 1e38])
def test_no_checkpoint_holds_what_is_not_a_number(tmp_path: Path, rate: float) -> None:
    wild = lay_over(
        config(save_every=1, keep_checkpoints=99, steps=20),
        optimizer={"learning_rate": rate, "warmup": 0.0, "gradient_clip": 0.0},
    )
    folder = tmp_path / "run"
    codes, said = each(["train", str(stored(wild, tmp_path / "config.json")), str(folder)])
    assert codes == [6], said
    assert "training diverged" in said
    for file in folder.glob("checkpoints/*/*.safetensors"):
        for name, tensor in load_file(file).items():
            assert tensor.isfinite().all(), f"{file}: {name}"
    assert all(math.isfinite(json.loads(line)["loss"]) for line in (folder / "metrics.jsonl").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_run_takes_no_more_and_more_memory(tmp_path: Path) -> None:
    chosen = lay_over(config(steps=2000, save_every=50, evaluate_every=100), data={"workers": 1})
    folder = tmp_path / "run"
    process = start("train", stored(chosen, tmp_path / "config.json"), folder)
    seen: list[tuple[int, int, int]] = []
    while process.poll() is None and steps_told(folder) < 1990:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        seen.append((steps_told(folder), pages, len(os.listdir(f"/proc/{process.pid}/fd"))))
        time.sleep(0.2)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    settled = [entry for entry in seen if entry[0] >= 200]
    early = max(pages for step, pages, _ in settled if step < 400)
    late = max(pages for step, pages, _ in settled if step > 1600)
    print(f"{len(settled)} looks, {early * 4 / 1024:.0f} MiB, then {late * 4 / 1024:.0f} MiB")
    assert late <= 1.05 * early
    files = [number for _, _, number in settled]
    print(f"open files: {sorted(set(files))}")
    assert min(files[-50:]) == min(files[:50])
