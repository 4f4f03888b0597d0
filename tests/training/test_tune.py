"""A search does each trial once, goes on where it stopped, and never looks at test."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coatnet.data.samples import Source
from coatnet.data.sources import open_data
from coatnet.errors import ConfigError
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics
from coatnet.training.recipes import small_data
from coatnet.training.tune import apply_settings, recipe_settings, tune
from training.test_loop import TINY

optuna = pytest.importorskip("optuna")


def config(**run: object) -> TrainConfig:
    whole = small_data("digits").replace(model=TINY)
    pace = {"steps": 12, "batch_size": 16, "evaluate_every": 2, "device": "cpu", "precision": "float32"}
    return lay_over(whole, run={**pace, **run}, data={"workers": 0})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Three trials of 4 steps."""
    folder = tmp_path_factory.mktemp("tune") / "search"
    return tune(config(), folder, ("digits",), trials=3)


def test_several_processes_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="tune runs in one process, and these are 2"):
        tune(config(), tmp_path / "tune", ("digits",))
    assert not (tmp_path / "tune").exists()


def test_trial_0_is_the_recipe(searched) -> None:
    assert [trial.number for trial in searched.trials] == [0, 1, 2]
    assert searched.trials[0].settings == pytest.approx(recipe_settings(config()))
    stored = RunFolder(searched.folder / "trial-0").read_config()
    assert stored.optimizer.learning_rate == pytest.approx(config().optimizer.learning_rate, rel=5e-3)
    assert stored.augmentation == config().augmentation
    assert stored.run.steps == 4


def test_trials_are_judged_by_their_last_evaluation_on_validation(searched) -> None:
    for trial in searched.trials:
        folder = RunFolder(searched.folder / f"trial-{trial.number}")
        last = [line for line in read_metrics(folder.metrics) if line.get("evaluation") == "val"][-1]
        assert trial.top1 == last["top1"]
        assert trial.pruned == (last["step"] < 4)
        assert not folder.evaluation.exists()
        assert not folder.classifier.exists()
        assert apply_settings(config(), trial.settings).optimizer == folder.read_config().optimizer


def test_test_images_are_never_read(tmp_path, monkeypatch) -> None:
    splits = open_data(config().data)
    assert splits.test is not None
    held_out = set(splits.test.names)
    read: set[str] = set()
    kinds = {kind for kind in type(splits.train).__mro__ if kind is not object} | {Source}
    for kind in kinds:
        if "read" in vars(kind):
            original = kind.read

            def noting(self, index, *rest, original=original):
                read.add(self.names[index])
                return original(self, index, *rest)

            monkeypatch.setattr(kind, "read", noting)
    tune(config(steps=3), tmp_path / "search", ("digits",), trials=1)
    assert read
    assert not read & held_out


def test_the_same_again_does_nothing_and_more_trials_go_on(searched) -> None:
    written = {path: path.stat().st_mtime_ns for path in searched.folder.rglob("metrics.jsonl")}
    assert tune(config(), searched.folder, ("digits",), trials=3) == searched
    assert {path: path.stat().st_mtime_ns for path in searched.folder.rglob("metrics.jsonl")} == written


def test_another_search_is_not_mixed_in(searched) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        tune(config(seed=1), searched.folder, ("digits",), trials=3)


def test_the_command_gives_the_settings_of_the_best(searched) -> None:
    words = searched.command.split()
    assert words[:3] == ["coatnet", "train", "digits"]
    if searched.best.number:
        told = float(words[words.index("--learning-rate") + 1])
        assert told == pytest.approx(searched.best.settings["learning_rate"], rel=5e-3)
    else:
        assert len(words) == 3


def test_a_trial_below_the_median_ends_early(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("coatnet.training.tune.UNPRUNED", 1)
    found = tune(config(steps=36), tmp_path / "s", ("digits",), trials=5)
    pruned = [trial for trial in found.trials if trial.pruned]
    assert pruned
    for trial in pruned:
        lines = read_metrics(RunFolder(found.folder / f"trial-{trial.number}").metrics)
        assert max(line["step"] for line in lines) < 12
    assert found.best not in pruned


SEARCH = """
import sys, torch
from pathlib import Path
from coatnet.training.config import TrainConfig
from coatnet.training.tune import tune
torch.set_num_threads(1)
tune(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), ("digits",), trials=3)
"""


def test_a_killed_search_goes_on(tmp_path, searched) -> None:
    (tmp_path / "config.json").write_text(config().model_dump_json())
    folder = tmp_path / "search"
    command = [sys.executable, "-c", SEARCH, str(tmp_path / "config.json"), str(folder)]
    process = subprocess.Popen(command, env={**os.environ})
    metrics = folder / "trial-1" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and "evaluation" in metrics.read_text()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    first = (folder / "trial-0" / "metrics.jsonl").stat().st_mtime_ns
    again = tune(config(), folder, ("digits",), trials=3)
    assert (folder / "trial-0" / "metrics.jsonl").stat().st_mtime_ns == first
    assert [(trial.settings, trial.top1) for trial in again.trials] == [
        (trial.settings, trial.top1) for trial in searched.trials
    ]
    assert json.loads((folder / "tune.json").read_text())["run"]["steps"] == 4
    assert Path(folder / "trial-3").exists() is False
