"""A study does each run once, whatever stops it, and reports the same."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coatnet.cli import main
from coatnet.data.sources import DataConfig, open_data
from coatnet.errors import ConfigError
from coatnet.study.config import study_config
from coatnet.study.folder import StudyFolder
from coatnet.study.named_network import open_network
from coatnet.study.networks import settle
from coatnet.study.plan import TRIAL_SEED, plan, run_config
from coatnet.study.properties import measure
from coatnet.study.results import Moment, accuracy_at_loss, read_results, steps_to
from coatnet.study.work import chosen_rate
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics

UNTIMED = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def done(tmp_path_factory, words) -> StudyFolder:
    """The study, undisturbed. Only read."""
    folder = tmp_path_factory.mktemp("study") / "whole"
    assert main(words(out=str(folder))) == 0
    return StudyFolder(folder)


def numbers(folder: StudyFolder) -> list[dict[str, str]]:
    """The rows of results.csv that do not depend on the clock."""
    assert main(["study", "report", str(folder.path)]) == 0
    with (folder.report / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in UNTIMED} for row in csv.DictReader(file)]


def written(folder: StudyFolder) -> dict[Path, int]:
    runs = folder.path / "runs"
    return {path.relative_to(runs): path.stat().st_mtime_ns for path in runs.rglob("*.json*")}


def test_the_plan_has_every_run_once_and_in_order(done) -> None:
    runs = plan(done.read())
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) == 2 * 2 + 2 * 2  # layouts x (rates, then seeds)
    for position, run in enumerate(runs):
        assert all(names.index(need) < position for need in run.needs)
        if run.rate is None:
            assert {by for by in run.needs} == {n for n in names if n.startswith(f"{run.experiment}/{run.arm}/rate")}
    assert {run.seed for run in runs if run.rate is not None} == {TRIAL_SEED}
    assert [run.rate is None for run in runs] == [False] * 4 + [True] * 4
    results = [(run.seed, run.arm) for run in runs if run.rate is None]
    assert results == [(seed, arm) for seed in (0, 1) for arm in ("CCCT", "CCTT")]


def test_runs_are_what_the_paper_says(done) -> None:
    """No augmentation, no regularization; the same images for all layouts of a seed, others for another seed."""
    study = done.read()
    for run in plan(study):
        config = done.run(run.name).read_config()
        assert config.augmentation == type(config.augmentation)()
        assert (config.optimizer.weight_decay, config.optimizer.ema) == (0, 0)
        assert config.model.stochastic_depth == 0
        assert config.run.steps == 3
    by_arm = [run_config(study, run, 1.0).data for run in plan(study) if run.name.endswith("0.1/seed-0")]
    assert by_arm[0] == by_arm[1]
    other = run_config(study, next(run for run in plan(study) if run.name.endswith("0.1/seed-1")), 1.0).data
    assert set(open_data(other).train.names) != set(open_data(by_arm[0]).train.names)


def test_the_rate_is_that_of_the_best_trial_on_validation(done) -> None:
    by_name = {run.name: run for run in plan(done.read())}
    for run in by_name.values():
        if run.rate is not None:
            assert not done.run(run.name).evaluation.exists()  # a trial never sees a test image
            continue
        trials = [by_name[name] for name in run.trials]
        ends = {}
        for trial in trials:
            last = [line for line in read_metrics(done.run(trial.name).metrics) if line.get("evaluation") == "val"][-1]
            ends[trial.rate] = (last["top1"], -last["loss"])
        assert chosen_rate(done, trials) == max(ends, key=lambda rate: ends[rate])
        assert done.run(run.name).read_config().optimizer.learning_rate == chosen_rate(done, trials)


def test_results_are_those_of_the_runs(done) -> None:
    results = read_results(done, done.read())
    assert [one.run.rate for one in results] == [None] * 4
    for one in results:
        folder = RunFolder(done.path / "runs" / one.run.name)
        assert one.top1 == json.loads(folder.evaluation.read_text())["top1"]
        lines = {
            (line["evaluation"], line["step"]): line for line in read_metrics(folder.metrics) if "evaluation" in line
        }
        assert one.last.train_loss == lines["train_sample", one.last.step]["loss"]
        assert one.last.val_top1 == lines["val", one.last.step]["top1"]
        assert one.gap == one.last.train_top1 - one.last.val_top1


def test_the_report_holds_all_it_promises(done) -> None:
    rows = numbers(done)
    assert len(rows) == 4
    page = (done.report / "report.html").read_text()
    assert "CCCT &gt;= CCTT" in page
    assert "Table 4" in (done.report / "costs.csv").read_text()
    pictures = {path.stem for path in done.report.glob("*.png")}
    assert pictures == {"generalization_0.1", "costs", "receptive_fields"}
    assert pictures | {"properties"} < {path.stem for path in done.report.glob("*.csv")}
    with (done.report / "verdicts.csv").open() as file:
        verdicts = list(csv.DictReader(file))
    assert {row["pair"] for row in verdicts} == {"CCCT >= CCTT"}
    assert {row["measure"] for row in verdicts} >= {"final accuracy"}
    first = {row["run"]: float(row["final_top1"]) for row in rows if row["experiment"] == "generalization"}
    differences = [
        first[f"generalization/CCCT/0.1/seed-{s}"] - first[f"generalization/CCTT/0.1/seed-{s}"] for s in (0, 1)
    ]
    told = next(row for row in verdicts if row["measure"] == "final accuracy")
    assert float(told["difference"]) == pytest.approx(sum(differences) / 2)


def test_the_report_measures_table_1_on_trained_networks(done) -> None:
    """As the verb does on the folder of the run; the picture's data has a number for each pixel."""
    assert main(["study", "report", str(done.path)]) == 0
    with (done.report / "properties.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [f"generalization/{arm}/0.1/seed-1" for arm in ("CCCT", "CCTT")]
    for row in rows:
        model, (size, _) = open_network(str(done.run(row["run"]).path))
        alone = measure(model, "it", size).properties
        assert float(row["error_at_stride"]) == alone.error_at_stride < 1e-9
        assert float(row["input_adaptivity"]) == alone.input_adaptivity
    assert len((done.report / "receptive_fields.csv").read_text().splitlines()) == 1 + 2 * 32**2
    page = (done.report / "report.html").read_text()
    assert "Three properties (Table 1)" in page
    assert f"{float(rows[1]['receptive_field']):.1%}" in page


def test_given_again_nothing_is_done(done, words) -> None:
    before = written(done)
    assert main(words(out=str(done.path))) == 0
    assert written(done) == before


def test_another_study_is_not_mixed_in_but_one_may_grow(done, words, capsys) -> None:
    assert main(words(out=str(done.path), steps="4")) == 2
    assert "another steps: 3" in capsys.readouterr().err
    stored, text = done.read().config, done.study.read_text()
    grown = StudyFolder(done.path).claim(stored.replace(seeds=3))
    assert len(plan(grown)) == 10
    moved = stored.replace(experiments=("capacity", "transfer"), target=stored.data, transferred=("CCTT",), sizes=(48,))
    assert len(plan(done.claim(moved))) == 8 + 3 + 2  # three rates that are tried
    with pytest.raises(ConfigError, match="another sizes"):
        done.claim(moved.replace(sizes=(32,)))
    done.study.write_text(text)
    with pytest.raises(ConfigError, match="is not empty"):
        StudyFolder(done.path / "runs").claim(stored)


def test_plan_as_json_and_one_run_by_number(done, words, tmp_path, capsys) -> None:
    folder = tmp_path / "array"
    assert main([*words(out=str(folder)), "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["layout"] for one in told["layouts"]] == ["CCCT", "CCTT"]
    assert {"parameters", "multiply_adds", "config"} <= set(told["layouts"][0])
    assert not (folder / "runs").exists()
    result = next(one for one in told["runs"] if one["needs"])
    assert main(words(out=str(folder), only=str(result["number"]))) == 2
    assert f"run {result['needs'][0]}" in capsys.readouterr().err
    for number in [*result["needs"], result["number"]]:
        assert main(words(out=str(folder), only=str(number))) == 0
    name = result["name"]
    same = [(one.top1, one.moments) for one in read_results(done, done.read()) if one.run.name == name]
    assert [(one.top1, one.moments) for one in read_results(StudyFolder(folder), done.read())] == same


@pytest.mark.slow
def test_killed_and_started_again_it_does_what_is_missing(done, words, tmp_path) -> None:
    """Killed three times, at moments that differ; the results are those of the undisturbed study."""
    folder = StudyFolder(tmp_path / "killed")
    flags = words(out=str(folder.path))
    runs = plan(done.read())
    for wanted in (runs[1], runs[4], runs[-1]):
        with start(flags) as process:
            metrics = folder.run(wanted.name).metrics
            while process.poll() is None and not (metrics.exists() and "evaluation" in metrics.read_text()):
                time.sleep(0.01)
            process.kill()
        finished = [run.name for run in runs if folder.is_done(run)]
        kept = {path: when for path, when in written(folder).items() if str(path.parent) in finished}
        assert not folder.is_done(runs[-1])
    assert main(flags) == 0
    assert kept
    assert {path: written(folder)[path] for path in kept} == kept
    assert numbers(folder) == numbers(done)


@pytest.mark.slow
def test_transfer_and_ablations_are_in_the_report(words, tmp_path) -> None:
    """Whole, on digits: pre-trained, fine-tuned at two sizes, beside variants and a contender."""
    flags = words(
        out=str(tmp_path / "all"), experiments="transfer,ablations,contenders", target="digits", transferred="CCTT",
        sizes="32,48", transfer_epochs="0.05", transfer_rates="1e-4", contenders="coatnet_mini_32", rates="1e-3",
    )  # fmt: skip
    assert main(flags) == 0
    assert main(["study", "report", str(tmp_path / "all")]) == 0
    page = (tmp_path / "all" / "report" / "report.html").read_text()
    for told in (
        "Verdicts: ablations",
        "CCTT &gt;&gt; ViT stem",
        "Transfer (Table 2)",
        "48 px",
        "84.23 at 384 px",
        "linear attention",
        "Table 9",
        "coatnet_mini_32",
        "less CCTT, points",
    ):
        assert told in page


@pytest.mark.slow
def test_two_at_once_share_the_work(done, words, tmp_path) -> None:
    folder = StudyFolder(tmp_path / "shared")
    flags = words(out=str(folder.path))
    assert main([*flags, "--plan", "--json"]) == 0
    both = [start(flags) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    names = [run.name for run in plan(folder.read())]
    assert sorted(line for text in told for line in text.splitlines() if line in names) == sorted(names)
    assert numbers(folder) == numbers(done)


def start(flags: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "coatnet", *flags]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, **streams)


def test_transfer_and_ablations_start_from_runs_of_their_own_kind(networks) -> None:
    """What they need is in the plan, before them, though nobody asked for it."""
    config = study_config(
        DataConfig(path="digits"),
        networks=str(networks),
        layouts=("CCTT", "CCCT"),
        experiments=("transfer", "ablations"),
        target=DataConfig(path="digits"),
        transferred=("CCTT",),
        transfer_rates=(5e-5,),
        sizes=(32, 48),
        seeds=2,
        fractions=(0.1, 1.0),
        steps=3,
        passes=(1.0, 3.0),
    )
    study = settle(config)
    runs = {run.name: run for run in plan(study)}
    names = list(runs)
    assert all(names.index(need) < names.index(name) for name, run in runs.items() for need in run.needs)
    tuned = runs["transfer/CCTT/48/seed-1"]
    assert tuned.start == "capacity/CCTT/3/seed-1"
    changed = run_config(study, tuned, 5e-5)
    assert (changed.preprocess.image_size, changed.model.image_size) == ((48, 48), 32)
    assert changed.optimizer.final_learning_rate == changed.optimizer.learning_rate == 5e-5
    variants = [arm for arm in study.arms if arm.kind == "ablation"]
    assert {arm.table for arm in variants} >= {"Table 6", "Table 8", "Table 9"}  # no blocks to divide otherwise
    assert all(arm.config != study.arm("CCTT").config for arm in variants)
    for arm in variants:
        run = runs[f"ablations/{re.sub(r'[ ,]+', '-', arm.name)}/1/seed-0"]
        assert run.trials == runs["generalization/CCTT/1/seed-0"].trials
        assert run_config(study, run, 1e-3).data == run_config(study, runs["generalization/CCTT/1/seed-0"], 1e-3).data


def test_config_errors_say_what_to_do(words, tmp_path, capsys) -> None:
    for flags, message in (
        ({"experiments": "transfer"}, "transfer"),
        ({"layouts": "CCCT,CCCT"}, "twice"),
        ({"epochs": "2"}, "--steps"),
        ({"fractions": "0.1,1.5"}, "fractions"),
        ({"budget": "3M"}, "--networks"),
        ({"only": "99"}, "0 to 7"),
        ({"batch_size": "auto", "accumulate": "2"}, "--batch auto finds --accumulate itself"),
    ):
        assert main(words(out=str(tmp_path / "new"), **flags)) == 2
        assert message in capsys.readouterr().err
    assert main(["study", "report", str(tmp_path)]) == 4


def test_without_a_budget_any_other_flag_may_be_given(tmp_path, capsys) -> None:
    """The size of the networks follows from the images, as it does where no flag is given."""
    words = ["--batch", "auto", "--seeds", "2", "--steps", "2", "--rates", "1e-3", "--fractions", "0.1"]
    words += ["--layouts", "CCCC,CCTT", "--experiments", "generalization", "--evaluations", "1", "--workers", "0"]
    assert main(["study", "digits", "--out", str(tmp_path / "new"), "--plan", "--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["layout"] for one in found["layouts"]] == ["CCCC", "CCTT"]
    stored = StudyFolder(tmp_path / "new").read().config
    assert (stored.budget, stored.batch_size, stored.accumulate) == ("3M", 128, "auto")


def test_sizes_follow_from_the_images() -> None:
    found = study_config(DataConfig(path="digits"))
    assert (found.image_size, found.budget, found.sizes) == (32, "3M", (32, 48))
    families = study_config(DataConfig(path="digits"), experiments=("contenders",)).contenders
    assert "timm/resnet50" in families


def test_accuracy_at_a_loss_lies_between_evaluations() -> None:
    moments = [Moment(1, 2.0, 0, 0, 0.2), Moment(2, 1.0, 0, 0, 0.4), Moment(3, 0.25, 0, 0, 0.5)]
    assert accuracy_at_loss(moments, 0.5) == pytest.approx(0.45)  # halfway in the logarithm
    assert accuracy_at_loss(moments, 3.0) == 0.2
    assert accuracy_at_loss(moments, 0.1) is None
    assert steps_to(moments, train_loss=1.0) == 2
    assert steps_to(moments, train_loss=1.0, val_top1=0.45) == 3
    assert steps_to(moments, val_top1=0.9) is None
