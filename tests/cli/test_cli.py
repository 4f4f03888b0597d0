"""Every verb in process: what it prints for people and for machines, and what it leaves behind."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from cli.drawn import draw_classes
from coatnet.cli import VERBS, main
from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.sources import DataConfig
from coatnet.model.family import FAMILY
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig


def run(capsys, *words, code=0):
    """Standard output of a command that ends with `code`."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


# --- help ------------------------------------------------------------------------------------------------------------


def test_without_arguments_it_helps(capsys):
    text = run(capsys)
    assert text == run(capsys, "--help")
    for verb, (_, summary) in VERBS.items():
        assert re.search(rf"{verb} +{re.escape(summary)}", text)
    assert "--debug" in text


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb, capsys):
    text = run(capsys, verb, "--help")
    assert f"Usage: coatnet {verb} {VERBS[verb][0]}\n" in text
    assert text.count("--help") == 0


@pytest.mark.parametrize("words", ["", "train", "study report"])
def test_help_is_a_verb_too(words, capsys):
    assert run(capsys, "help", *words.split()) == run(capsys, *words.split(), "--help")


@pytest.mark.parametrize("config", [RunConfig, DataConfig, AugmentationConfig, OptimizerConfig])
def test_help_of_train_lists_every_field_with_its_docstring(config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = run(capsys, "train", "--help")
    for name, field in config.model_fields.items():
        if (config, name) != (DataConfig, "path"):
            assert f"--{name.replace('_', '-')} " in text
            assert " ".join(field.description.split()) in text
    assert "--no-tensorboard" in text
    assert "--path" not in text


# --- look before you run ---------------------------------------------------------------------------------------------


def test_a_dry_run_tells_steps_time_and_memory_and_writes_nothing(image_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    pace = ("--steps", 7, "--batch", "auto", "--workers", 0, "--device", "cpu")
    text = run(capsys, "train", image_folder, "--dry-run", "--model", "coatnet_mini_32", *pace)
    assert "model: coatnet_mini_32" in text
    assert re.search(r"steps: 7 of 64 images, [\d.]+ epochs", text)
    assert re.search(r"time: about \d+ (s|min): [\d.]+ s a step, \d+ evaluations of", text)
    assert re.search(r"memory: \d+\.\d\d GB of \d+\.\d\d GB on cpu", text)
    assert sorted(tmp_path.rglob("*")) == before


def test_tune_ends_with_a_command_that_trains_so(image_folder, capsys, tmp_path):
    pytest.importorskip("optuna")
    words = ("tune", image_folder, "--model", "coatnet_mini_32", "--trials", 1, "--epochs", 3, "--device", "cpu")
    text = run(capsys, *words, "--out", tmp_path / "search")
    assert f"next        coatnet train {image_folder} --model coatnet_mini_32 --epochs 3.0 --device cpu\n" in text
    found = json.loads(run(capsys, *words, "--out", tmp_path / "search", "--json"))
    assert (found["best"], len(found["trials"])) == (0, 1)
    assert 0 <= found["trials"][0]["top1"] <= 1


# --- models ----------------------------------------------------------------------------------------------------------


def test_models(capsys):
    text = run(capsys, "models")
    assert re.search(r"coatnet_0 +C-C-T-T +25.04 M +4.142 G +224 px", text)
    assert text.index("coatnet_7") < text.index("Ours") < text.index("coatnet_mini_32")


def test_models_for_machines(capsys):
    rows = json.loads(run(capsys, "models", "--json"))
    assert [row["name"] for row in rows] == list(FAMILY)
    assert rows[0] == {
        "name": "coatnet_0",
        "origin": "paper",
        "layout": "C-C-T-T",
        "parameters": 25_036_948,
        "multiply_adds": 4_141_888_512,
        "image_size": 224,
        "classes": 1000,
    }
    assert {row["origin"] for row in rows} == {"paper", "coatnet"}


# --- train, resume, and what a run folder gives to the other verbs ----------------------------------------------------


def test_a_run_from_start_to_end(image_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if no extra were installed
    words = ["train", "shapes", "--steps", 2, "--batch", 4, "--device", "cpu", "--workers", 0, "--no-horizontal-flip"]
    text = run(capsys, *words)
    assert "model: coatnet_mini_32, images are 40 px" in text
    assert "as asked: steps 2, batch_size 4, device cpu, workers 0, horizontal_flip False" in " ".join(text.split())
    assert "test accuracy " in text
    for name in ("runs/shapes/report.html", "runs/shapes/classifier"):
        assert name in text
        assert (tmp_path / name).exists()
    config = TrainConfig.model_validate_json((tmp_path / "runs/shapes/config.json").read_bytes())
    assert (config.run.steps, config.run.epochs, config.run.batch_size) == (2, None, 4)
    assert config.optimizer.learning_rate == pytest.approx(1.4e-3 / 4)  # the recipe's for this batch
    assert not config.augmentation.horizontal_flip

    # A new folder for another run; --resume goes on with what is there, and with nothing else.
    out = ["--out", "runs/shapes", "--resume"]
    assert "test accuracy " in run(capsys, *words, *out)
    assert "test accuracy " in run(capsys, "resume", "runs/shapes")
    assert main([*words[:2], *out, "--batch", "8"]) == 2
    assert "--batch-size: 4 in runs/shapes, got 8" in capsys.readouterr().err
    for flag, value, told in (
        ("--steps", "3", "--steps: 2 in runs/shapes, got 3"),
        ("--image-size", "64", "--image-size: 32 in runs/shapes, got 64"),
        ("--model", "coatnet_small_32", "--model: runs/shapes trains another than coatnet_small_32"),
    ):
        assert main([*words[:2], *out, flag, value]) == 2
        assert told in capsys.readouterr().err
    assert "test accuracy " in run(capsys, *words[:2], *out, "--epochs", 5)
    assert not (tmp_path / "runs" / "shapes-2").exists()
    assert config.data.path == str(image_folder)

    # Every verb takes the run folder; the data and the split are those of the run.
    score = json.loads(run(capsys, "evaluate", "runs/shapes", "--device", "cpu", "--json"))
    assert score["split"] == "test"
    assert score["images"] == 3
    assert score["top1"] == json.loads((tmp_path / "runs/shapes/evaluation.json").read_text())["top1"]
    assert json.loads(run(capsys, "evaluate", "runs/shapes/classifier", "shapes", "--json"))["images"] == 3
    assert json.loads(run(capsys, "evaluate", "runs/shapes", "--split", "train", "--json"))["images"] == 12
    assert len(run(capsys, "predict", "runs/shapes", "shapes").splitlines()) == 18


def test_fine_tuning(image_folder, tiny_classifier, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "shapes", "--init", tiny_classifier, "--out", "runs/tuned"]
    pace = ["--steps", 2, "--batch", 4, "--device", "cpu", "--workers", 0]
    text = run(capsys, *words, *pace, "--image-size", "48x64", "--freeze", "body_first")
    said = " ".join(text.split())
    assert f"initial weights: {tiny_classifier}" in said
    assert "head: kept, the classes are the same" in said
    assert "image size: 48 x 64 px, as asked; the relative tables, made for 32 px, are resized as it runs" in said
    assert "recipe: fine-tuning, short form" in said
    config = TrainConfig.model_validate_json((tmp_path / "runs/tuned/config.json").read_bytes())
    assert config.preprocess.image_size == (48, 64)
    assert config.optimizer.freeze == "body_first"
    assert config.initial.source == str(tiny_classifier)
    assert config.initial.sha256 == json.loads((tiny_classifier / "fingerprint.json").read_text())["sha256"]
    assert "kept, the classes are the same" in (tmp_path / "runs/tuned/report.html").read_text()

    # A run goes on as it began.
    assert "test accuracy " in run(capsys, *words, "--resume", "--image-size", "48x64")
    for flag, value, told in (
        ("--init", "none", f"--init: {tiny_classifier} in runs/tuned, got none"),
        ("--image-size", "64", "--image-size: 48x64 in runs/tuned, got 64"),
        ("--recipe", "small_data", "--recipe: runs/tuned was not made by small_data"),
    ):
        assert main([*map(str, words[:2]), "--out", "runs/tuned", "--resume", flag, value]) == 2
        assert told in capsys.readouterr().err

    # And the next one may start from it, with a part of its classes.
    shutil.rmtree(image_folder / "cross")
    again = run(capsys, "train", "shapes", "--init", "runs/tuned", *pace)
    assert "head: cut, to 2 of its classes" in again
    assert TrainConfig.model_validate_json((tmp_path / "runs/shapes/config.json").read_bytes()).class_names == (
        "circle",
        "square",
    )


def test_a_classifier_runs_at_another_size(tiny_classifier, image_folder, capsys):
    words = ["evaluate", tiny_classifier, image_folder, "--json"]
    scores = {size: json.loads(run(capsys, *words, "--image-size", size)) for size in ("32", "48", "40x64")}
    own = json.loads(run(capsys, *words))
    assert scores["32"] == own
    assert len({score["loss"] for score in scores.values()}) == 3
    words = ["predict", tiny_classifier, image_folder / "cross" / "0.png", "--json"]
    found = {size: json.loads(run(capsys, *words, "--image-size", size)) for size in ("32", "48")}
    assert found["32"]["probability"] != found["48"]["probability"]
    assert found["32"] == json.loads(run(capsys, *words))


def test_a_second_run_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    from coatnet.cli.runs import choose_folder

    monkeypatch.chdir(tmp_path)
    assert str(choose_folder("photos/flowers/", None, False, False)) == "runs/flowers"
    (tmp_path / "runs" / "flowers" / "plots").mkdir(parents=True)
    (tmp_path / "runs" / "flowers-2").write_text("a file")
    (tmp_path / "runs" / "flowers-3").mkdir()  # empty: free
    assert str(choose_folder("flowers.parquet", None, False, False)) == "runs/flowers-3"
    assert choose_folder("x", tmp_path / "new", True, False) == tmp_path / "new"


# --- evaluate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged_folder(image_folder):
    """18 images, one of which cannot be read."""
    (image_folder / "cross" / "3.png").write_bytes(b"")
    return image_folder


def test_evaluate(tiny_classifier, damaged_folder, capsys):
    text = run(capsys, "evaluate", tiny_classifier, damaged_folder)
    for words in ("all images: 18", "top-1 accuracy", "95 % interval", "loss", "calibration error", "square"):
        assert words in text
    assert "unreadable images, which count as wrong: 1\n  cross/3.png" in text
    assert "top-5" not in text  # of three classes it says nothing


def test_evaluate_for_machines(tiny_classifier, damaged_folder, capsys):
    score = json.loads(run(capsys, "evaluate", tiny_classifier, damaged_folder, "--json", "--bad", "exclude"))
    assert score["images"] == 17
    assert score["unreadable_images"] == ["cross/3.png"]
    assert score["top1_low"] <= score["top1"] <= score["top1_high"]
    smaller = run(capsys, "evaluate", tiny_classifier, damaged_folder, "--json", "--batch-size", 5, "--bad", "exclude")
    assert json.loads(smaller)["top1"] == score["top1"]


def test_of_many_classes_the_worst_are_listed(capsys):
    import numpy as np

    from coatnet.cli.score_tables import show_evaluation
    from coatnet.evaluation.metrics import Answers, rate

    labels = np.arange(60)
    logits = np.eye(60)
    logits[30:] = np.roll(logits[30:], 1, axis=1)  # the later half is wrong
    show_evaluation(rate(Answers.of_logits(logits, labels), [f"kind{label:02d}" for label in labels]))
    text = capsys.readouterr().out
    assert "20 lowest F1 of 60 classes" in text
    assert text.count("kind") == 20
    assert "kind29" not in text
    assert "top-5 accuracy" in text


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predict_answers_the_others(tiny_classifier, damaged_folder, capsys):
    (damaged_folder / "notes.txt").write_text("no image")
    (damaged_folder / ".hidden").mkdir()
    shutil.copy(damaged_folder / "cross" / "0.png", damaged_folder / ".hidden")
    lines = run(capsys, "predict", tiny_classifier, damaged_folder, "--top", 2, code=3).splitlines()
    assert len(lines) == 18
    assert f"{damaged_folder}/cross/3.png: not read, empty: 0 bytes" in lines[6 + 3]
    assert re.fullmatch(rf"{damaged_folder}/circle/0.png: \w+ \d+\.\d %, \w+ \d+\.\d %", lines[0])


def test_predict_for_machines(tiny_classifier, damaged_folder, capsys):
    images = [damaged_folder / "cross" / name for name in ("2.png", "3.png", "4.png")]
    text = run(capsys, "predict", tiny_classifier, *images, "--json", code=3)
    first, broken, last = [json.loads(line) for line in text.splitlines()]
    assert [answer["image"] for answer in (first, broken, last)] == [str(image) for image in images]
    assert broken["error"]["code"] == "empty"
    assert first["top"][0] == [first["label"], first["probability"]]
    assert sum(share for _, share in first["top"]) == pytest.approx(1)
    # Beside a broken one or alone, an image gets the same answer.
    alone = json.loads(run(capsys, "predict", tiny_classifier, images[2], "--json"))
    assert alone["label"] == last["label"]
    assert alone["probability"] == pytest.approx(last["probability"], abs=1e-6)


def test_odd_names(tiny_classifier, image_folder, capsys):
    odd = Path(os.fsdecode(os.fsencode(image_folder) + b"/[bold]\xff\n.png"))
    shutil.copy(image_folder / "cross" / "0.png", odd)
    for words in ([], ["--json"]):
        lines = run(capsys, "predict", tiny_classifier, odd, *words).splitlines()
        assert len(lines) == 1
        assert "[bold]" in lines[0]


def test_predict_over_several_batches(tiny_classifier, tmp_path, capsys):
    folder = draw_classes(tmp_path / "many", count=12)
    lines = run(capsys, "predict", tiny_classifier, folder, folder / "circle" / "0.png").splitlines()
    assert len(lines) == 37  # more than one batch of 32
    assert lines[-1] == lines[0]


def test_train_opens_the_data_once_and_looks_once(image_folder, tmp_path, monkeypatch):
    """Every image is read once to look at it (all of so few), once to be trained on or scored."""
    from coatnet.data import sources
    from coatnet.training import look

    calls = []
    for module, name in ((sources, "find_parts"), (look, "look_at")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real, name=name: calls.append(name) or real(*given))
    words = ["train", str(image_folder), "--steps", "1", "--batch-size", "4", "--workers", "0", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert sorted(calls) == ["find_parts", "look_at"]
