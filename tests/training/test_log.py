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
    lines = [{"step": 4, "evaluation": "val"}, {"step": 8, "loss": 1.0}, {"step": 8, "evaluation": "val"}]
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
    with RunLog(tmp_path, 10, done(0), tensorboard=False) as log:
        log.show({**line, "step": 5}, 0.0)  # too soon after the start for another line
        log.show(line, 0.91)
    said = capfd.readouterr().err
    assert said.splitlines() == [
        "step 10/10  loss 0.500  rate 1.0e-03  1,234 images/s  waiting for data 7%  best 91.0%  left 0:00"
    ]


def test_tensorboard_files_are_written_if_asked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 10, done(0), tensorboard=True) as log:
        log.write({"step": 1, "loss": 0.5})
    assert list((tmp_path / "tensorboard").glob("events.*"))
