"""A compiled network trains like the one that is not, and a machine that cannot compile says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training import test_parallel
from training.test_faults import each, stored
from training.test_loop import config, final
from training.test_sharding import losses


def test_without_a_compiler_it_is_said_in_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": "", "PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "coatnet", "train", "digits", "--compile", "--device", "cpu", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 5, done.stderr
    message, hint = done.stderr.splitlines()[-2:]
    assert message.startswith("coatnet: torch.compile does not work here: there is no g++")
    assert hint.startswith("  hint: install a C++ compiler")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_run_equals_one_that_is_not_and_goes_on_after_a_stop(tmp_path: Path, precision: str) -> None:
    eager = str(stored(config(precision=precision), tmp_path / "eager.json"))
    compiled = str(stored(config(precision=precision, compile=True), tmp_path / "compiled.json"))
    folders = {name: tmp_path / name for name in ("eager", "whole", "stopped")}
    codes, said = each(
        ["train", eager, str(folders["eager"])],
        ["train", compiled, str(folders["whole"])],
        ["train", compiled, str(folders["stopped"]), "signal SIGTERM torch.autograd:backward 6"],
        ["resume", str(folders["stopped"])],
    )
    assert codes == [0, 0, 75, 0], said
    assert final(folders["stopped"]) == final(folders["whole"])
    near = 1e-3 if precision == "float32" else 0.1
    assert losses(folders["whole"]) == pytest.approx(losses(folders["eager"]), abs=near)


@pytest.mark.slow
def test_two_processes_compile_what_they_share(tmp_path: Path) -> None:
    """DDP around the network, the compiler around both; each process for itself."""
    eager = str(stored(test_parallel.config(), tmp_path / "eager.json"))
    compiled = str(stored(test_parallel.config(compile=True), tmp_path / "compiled.json"))
    folders = {name: tmp_path / name for name in ("eager", "whole", "stopped")}
    codes, said = each(
        ["two", "train", eager, str(folders["eager"])],
        ["two", "train", compiled, str(folders["whole"])],
        ["two", "train", compiled, str(folders["stopped"]), "signal SIGTERM torch.autograd:backward 4"],
        ["two", "resume", str(folders["stopped"])],
    )
    assert codes == [0, 0, 75, 0], said
    assert final(folders["stopped"]) == final(folders["whole"])
    assert losses(folders["whole"]) == pytest.approx(losses(folders["eager"]), abs=1e-3)
