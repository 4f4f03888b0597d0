"""One process at a time writes in a folder, and what a holder leaves stands in nobody's way."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coatnet.errors import ConfigError
from coatnet.training.claim import LOCK, check_unheld, held
from coatnet.training.folder import STARTING, RunFolder, claimed, is_taken

HOLD = """
import sys
from pathlib import Path
from coatnet.training.claim import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder until its input ends."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_is_refused_by_the_name_of_its_holder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        told = rf"{folder} is in use by process {process.pid} on \S+, since"
        with pytest.raises(ConfigError, match=told), held(folder):
            pass
        with pytest.raises(ConfigError, match=told):
            check_unheld(folder)
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match=told), claimed(folder, "x", overwrite):
                pass
    assert not folder.exists()  # it was made to be held, and nothing came into it


def test_of_a_default_name_the_next_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path / "runs" / "flowers"), claimed(None, "flowers", False) as run:
        assert run.path == Path("runs/flowers-2")
    with claimed(None, "flowers", False) as run:
        assert run.path == Path("runs/flowers")
        with claimed(None, "flowers", False) as again:  # of one process, as the command line and `train` do it
            assert again.path == run.path
    assert not (tmp_path / "runs").exists()


def test_an_error_within_is_not_taken_for_a_folder_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="mine"), claimed(None, "flowers", False):
        raise ConfigError("mine")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / LOCK).exists()
    assert not is_taken(folder)
    with claimed(folder, "x", False), held(folder):
        pass


def test_threads_exclude_each_other_and_one_may_hold_twice(tmp_path: Path) -> None:
    found: list[Exception] = []

    def try_it() -> None:
        try:
            with held(tmp_path):
                pass
        except ConfigError as error:
            found.append(error)

    with held(tmp_path), held(tmp_path):
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
    assert len(found) == 1
    try_it()
    assert len(found) == 1


def test_nothing_is_written_into_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"), claimed(tmp_path, "x", True):
        pass
    check_unheld(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_made_empty_stays_held(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / "old").mkdir()
        RunFolder(tmp_path).make_empty()
        assert {entry.name for entry in tmp_path.iterdir()} >= {LOCK, STARTING}
        assert not (tmp_path / "old").exists()
