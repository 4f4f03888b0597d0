import json
from pathlib import Path

import pytest
import torch

from coatnet.training.checkpoint import TrainingState
from coatnet.training.log import Meter, RunLog, read_metrics


def done(step: int, evaluated: int = 0) -> TrainingState:
    model = torch.nn.Linear(1, 1)
    return TrainingState(model, torch.optim.SGD(model.parameters()), None, step=step, evaluated=evaluated)


def test_lines_after_a_resume_are_cut_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    with RunLog(tmp_path, 10, done(2), tensorboard=False) as log:
        log.write({"step": 3, "loss": 0.5})
    assert read_metrics(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 0.5}]


@pytest.mark.parametrize("evaluated", [4, 8])
def test_an_evaluation_that_the_run_does_not_know_of_is_cut(tmp_path: Path, evaluated: int) -> None:
    lines = [
        {"step": 4, "evaluation": "val", "loss": 1.0, "top1": 0.5},
        {"step": 8, "loss": 1.0},
        {"step": 8, "evaluation": "val", "loss": 1.0, "top1": 0.5},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with RunLog(tmp_path, 10, done(8, evaluated), tensorboard=False):
        assert read_metrics(path) == lines[: 2 if evaluated == 4 else 3]


def test_the_meter_gives_means_since_the_last_line() -> None:
    meter = Meter(batch_size=10)
    meter.add(waited=0.5, took=1.0)
    meter.add(waited=0.0, took=1.0)
    assert meter.read() == {"images_per_second": 10.0, "wait": 0.25}
    meter.add(waited=0.0, took=2.0)
    assert meter.read() == {"images_per_second": 5.0, "wait": 0.0}


def test_without_a_terminal_the_end_is_said_in_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = {"step": 10, "loss": 0.5, "learning_rate": 1e-3, "images_per_second": 1234.0, "wait": 0.07}
    with RunLog(tmp_path, 10, done(0), tensorboard=False, epoch=4.0) as log:
        log.show({**line, "step": 5}, None)  # too soon after the start for another line
        log.show(line, 0.91)
    said = capfd.readouterr().err
    assert said.splitlines() == ["epoch 3/3  step 10/10  loss 0.500  best 91.0%  1,234 img/s  left 0:00"]


def test_tensorboard_files_are_written_if_asked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 10, done(0), tensorboard=True) as log:
        log.write({"step": 1, "loss": 0.5})
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_longest_line_fits_eighty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal too narrow for a bar the time that is left is seen, and before an evaluation no best one."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    line = {"step": 66_900, "loss": 12.5, "learning_rate": 1e-3, "images_per_second": 1430.0, "wait": 0.5}
    with RunLog(tmp_path, 66_900, done(0), tensorboard=False, epoch=669.0) as log:
        assert log._progress is not None
        for best, told in ((None, "1,430 img/s left"), (1.0, "best 100.0%")):
            log.show(line, best)
            shown = "".join(one.text for one in log._console.render(log._progress.get_renderable()))
            assert max(map(len, shown.splitlines())) <= 80
            words = " ".join(shown.split())
            assert "epoch 100/100 step 66900/66900 loss 12.500" in words
            assert told in words
            assert ("best" in words) == (best is not None)
            assert words.split("left ")[1]


DAMAGED = [
    b'{"step": 2, "loss": 0.5',
    b'{"step": 2, "lo\xffs": 0.5}',
    b'{"st%p": 2, "loss": 0.5}',
    b"[]",
    b"7",
    b"\x00" * 9,
]
DAMAGED += [b'{"step": 2, "loss": "0.5"}', b'{"step": 2, "evaluation": "val", "loss": 1.0}', b"[" * 100_000]


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_left_out_and_counted(
    tmp_path: Path, damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = [{"step": 1, "loss": 1.0}, {"step": 2, "evaluation": "val", "loss": 1.0, "top1": 0.5}]
    first, last = (json.dumps(line).encode() + b"\n" for line in whole)
    (tmp_path / "metrics.jsonl").write_bytes(first + damage + b"\n" + last)
    assert read_metrics(tmp_path / "metrics.jsonl") == whole
    with RunLog(tmp_path, 10, done(2, 2), tensorboard=False):
        pass
    assert "metrics.jsonl: 1 damaged line is left out" in " ".join(capfd.readouterr().err.split())
    assert read_metrics(tmp_path / "metrics.jsonl") == whole
