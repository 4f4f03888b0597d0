"""A search does each run once, goes on where it stopped, never looks at test, and advises what beat the recipe."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coatnet.cli import main
from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.samples import Source
from coatnet.data.sources import open_data
from coatnet.errors import ConfigError
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder
from coatnet.training.last_round import SEEDS, last_round
from coatnet.training.log import read_metrics
from coatnet.training.recipes import small_data
from coatnet.training.search_space import apply_settings, first_settings, recipe_settings
from coatnet.training.tune import _command, setting_changes, tune
from training.test_loop import TINY

optuna = pytest.importorskip("optuna")


def config(**run: object) -> TrainConfig:
    whole = small_data("digits").replace(model=TINY)
    pace = {"steps": 4, "batch_size": 16, "evaluate_every": 2, "device": "cpu", "precision": "float32"}
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


def learning(learning_rate: float) -> TrainConfig:
    """Three epochs over 359 images: enough for 90 steps of 16 images to be far above chance, and for 22 of 64 not."""
    whole = lay_over(
        config(),
        run={"epochs": 3, "batch_size": 64, "evaluate_every": None},
        optimizer={"learning_rate": learning_rate},
        data={"train_fraction": 0.5, "val_fraction": 0.5},
    )
    return whole.replace(augmentation=AugmentationConfig())


def test_what_is_better_with_each_seed_is_advised(tmp_path) -> None:
    low = learning(6e-4)
    found = tune(low, tmp_path / "search", ("digits",), trials=2)
    assert found.trials[1].settings == {**recipe_settings(low), "batch_size": 16}
    recipe, better = found.last_round
    assert (recipe.number, better.number, found.best) == (0, 1, 1)
    assert (recipe.won, better.won) == (False, True)
    assert all(own > base for own, base in zip(better.top1, recipe.top1, strict=True))
    assert found.command.startswith("coatnet train digits --learning-rate 0.0006 ")
    assert found.command.endswith("--batch-size 16")
    runs = [RunFolder(folder) for folder in (tmp_path / "search").glob("last-*")]
    assert len(runs) == 2 * SEEDS
    assert {run.read_config().run.seed for run in runs} == set(range(1, 1 + SEEDS))
    assert not any(run.evaluation.exists() or run.classifier.exists() for run in runs)
    for one in found.last_round:
        folder = RunFolder(tmp_path / "search" / f"last-{one.number}-{SEEDS}")
        assert [line["top1"] for line in read_metrics(folder.metrics) if "evaluation" in line][-1] == one.top1[-1]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    assert tune(low, tmp_path / "search", ("digits",), trials=2) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")} == written


def test_the_recipe_stays_where_nothing_is_better(tmp_path) -> None:
    good = lay_over(learning(3e-3), run={"batch_size": 16})
    worse = {**recipe_settings(good), "learning_rate": 1e-9}
    recipe, out = last_round(good, tmp_path, {5: worse})
    assert len(recipe.top1) == len(out.top1) == 1
    assert out.top1 < recipe.top1
    assert not out.won
    assert last_round(good, tmp_path, {}) == ()


def test_one_change_at_a_time_comes_first() -> None:
    own, *others = first_settings(learning(1e-3))
    assert own == recipe_settings(learning(1e-3))
    changed = [{name: other[name] for name in own if other[name] != own[name]} for other in others]
    assert changed == [{"batch_size": 16}, {"learning_rate": 2e-3}, {"strength": 0.5}, {"mixup": 0.2}, {"cutmix": 1.0}]
    assert "batch_size" not in recipe_settings(config()), "with a length in steps it would mean fewer images"
    assert "mixup" not in recipe_settings(config(batch_size=15)), "images are mixed in pairs"


def test_the_command_repeats_the_settings(tmp_path) -> None:
    whole = lay_over(small_data("digits", model="coatnet_mini_32"), run={"epochs": 0.05, "device": "cpu"})
    settings = {name: value * 1.23456 for name, value in recipe_settings(whole).items()}
    settings |= {"mixup": 0.2, "cutmix": 1.0, "batch_size": 32}
    words = (
        "digits",
        "--model",
        "coatnet_mini_32",
        "--epochs",
        "0.05",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "r"),
    )
    assert main(shlex.split(_command(words, setting_changes(whole, settings)))[1:]) == 0
    ran, asked = RunFolder(tmp_path / "r").read_config(), apply_settings(whole, settings)
    assert (ran.optimizer, ran.augmentation, ran.model) == (asked.optimizer, asked.augmentation, asked.model)
    assert (ran.run.batch_size, ran.run.steps) == (32, 2)


def test_a_trial_below_the_median_ends_early(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("coatnet.training.tune.UNPRUNED", 1)
    found = tune(config(steps=12), tmp_path / "s", ("digits",), trials=5)
    pruned = [trial for trial in found.trials if trial.pruned]
    assert pruned
    for trial in pruned:
        lines = read_metrics(RunFolder(found.folder / f"trial-{trial.number}").metrics)
        assert 6 <= max(line["step"] for line in lines) < 12
    assert found.best not in [trial.number for trial in pruned]


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
