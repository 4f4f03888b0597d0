"""Fine-tuning through the one loop: what is frozen stays, the best is kept, a resumed run is the same bit for bit."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from coatnet.classifier import Classifier
from coatnet.data.sources import open_data
from coatnet.evaluation.evaluate import evaluate
from coatnet.model.family import create_model
from coatnet.model.tensors import read_tensors
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.log import read_metrics
from coatnet.training.loop import resume, train
from coatnet.training.recipes import finetune, small_data
from training.test_initial import source
from training.test_loop import final, stopped_at

INITIAL = "initial.safetensors"
PACE = {"steps": 12, "batch_size": 16, "evaluate_every": 4, "save_every": 3, "log_every": 1, "device": "cpu"}


def config(folder: Path, image_size: tuple[int, int] | None = None, **flags: object) -> TrainConfig:
    """A run of some seconds on a classifier of other classes."""
    optimizer = {name: flags.pop(name) for name in list(flags) if name in ("freeze", "frozen_share", "layer_decay")}
    run = {**PACE, "precision": "float32", "keep_checkpoints": 9, "patience": None, **flags}
    whole = finetune("digits", source(folder, ("a", "b", "c")), image_size=image_size)
    return lay_over(whole, run=run, optimizer={"learning_rate": 3e-3, **optimizer}, data={"workers": 0})


MODES = {
    "plain": {},
    "body": {"freeze": "body"},
    "body first, stopped while frozen": {"freeze": "body_first", "frozen_share": 0.5},
    "body first, stopped after": {"freeze": "body_first", "frozen_share": 0.2},
    "layer decay": {"layer_decay": 0.6},
    "patience": {"patience": 2},
    "another size": {"image_size": (48, 64), "steps": 6},
    "bfloat16": {"precision": "bfloat16", "freeze": "body_first", "frozen_share": 0.2},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, mode: str) -> None:
    train(config(tmp_path / "source", **MODES[mode]), tmp_path / "whole")  # type: ignore[arg-type]
    copy = stopped_at(tmp_path / "whole", 3, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "source")  # it is never asked again
    resume(copy)
    assert final(copy) == final(tmp_path / "whole")


def test_before_the_first_checkpoint_it_starts_from_the_stored_weights(tmp_path: Path) -> None:
    train(config(tmp_path / "source"), tmp_path / "whole")
    copy = stopped_at(tmp_path / "whole", 0, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "source")
    resume(copy)
    assert final(copy) == final(tmp_path / "whole")


def states(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """First weights and last ones, of the network itself."""
    newest = max((folder / "checkpoints").iterdir())
    return read_tensors(folder / INITIAL), read_tensors(newest / "model.safetensors")


def test_a_frozen_body_does_not_move_at_all(tmp_path: Path) -> None:
    run = train(config(tmp_path / "source", freeze="body"), tmp_path / "run")
    before, after = states(run.folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("head.") for name in moved)
    assert any("running_mean" in name for name in before)
    scored = read_tensors(run.classifier / "model.safetensors")
    assert all(torch.equal(scored[name], before[name]) for name in before if not name.startswith("head."))


def test_a_body_frozen_at_first_moves_later(tmp_path: Path) -> None:
    frozen = config(tmp_path / "source", freeze="body_first", frozen_share=0.5, save_every=6)
    train(frozen, tmp_path / "run")
    before, after = states(tmp_path / "run")
    middle = read_tensors(tmp_path / "run" / "checkpoints" / "step-000000006" / "model.safetensors")
    body = [name for name in before if not name.startswith("head.")]
    assert all(torch.equal(before[name], middle[name]) for name in body)
    assert all(not torch.equal(before[name], after[name]) for name in body if "num_batches" not in name)


def test_layers_nearer_to_the_image_move_less(tmp_path: Path) -> None:
    train(config(tmp_path / "source", layer_decay=0.1, steps=4), tmp_path / "run")
    before, after = states(tmp_path / "run")

    def moved(name: str) -> float:
        return float((after[name] - before[name]).abs().max())

    layers = ("stem.reduce", "stages.0.0.expand", "stages.2.0.attention.output", "head.norm")
    steps = [moved(f"{layer}.weight") for layer in layers]
    assert all(later > 3 * earlier > 0 for earlier, later in itertools.pairwise(steps)), steps


def test_a_run_ends_when_validation_has_stopped_to_improve(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A rate far too high for the weights: the first evaluations are the best."""
    wild = config(tmp_path / "source", patience=2, steps=200, evaluate_every=2, save_every=2, keep_checkpoints=99)
    wild = lay_over(wild, optimizer={"learning_rate": 1.0, "warmup": 0.0, "ema": 0.0})
    run = train(wild, tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    scores = [(line["top1"], -line["loss"], line["step"]) for line in lines if "evaluation" in line]
    best = max(score[:2] for score in scores)
    position = next(index for index, score in enumerate(scores) if score[:2] == best)
    assert len(scores) == position + 3  # two more, neither better
    assert scores[-1][2] < 200
    told = capfd.readouterr().err
    assert "no better evaluation in 2, the run ends early" in told
    assert f"the classifier is that of {f'step {scores[position][2]}' if position else 'the initial weights'}" in told
    step = scores[position][2]
    place = run.folder / "checkpoints" / f"step-{step:09d}" / "model.safetensors" if step else run.folder / INITIAL
    kept = read_tensors(place)
    scored = read_tensors(run.classifier / "model.safetensors")
    assert all(torch.equal(scored[name], kept[name]) for name in kept)


def test_without_patience_it_goes_to_the_end_and_keeps_the_best(tmp_path: Path) -> None:
    run = train(config(tmp_path / "source", save_every=4), tmp_path / "run")
    lines = [line for line in read_metrics(run.folder / "metrics.jsonl") if line.get("evaluation") == "val"]
    assert [line["step"] for line in lines] == [0, 4, 8, 12]
    best = max(lines, key=lambda line: (line["top1"], -line["loss"]))
    file = {"averaged": "ema.safetensors", "raw": "model.safetensors"}[best["weights"]]
    place = run.folder / "checkpoints" / f"step-{best['step']:09d}" / file
    kept = read_tensors(place if best["step"] else run.folder / INITIAL)
    scored = read_tensors(run.classifier / "model.safetensors")
    assert all(torch.equal(scored[name], kept[name]) for name in kept)


@pytest.mark.parametrize("ema", [0.0, 0.9999])
def test_each_evaluation_tells_raw_and_averaged_weights_and_the_better_ones_are_kept(
    tmp_path: Path, ema: float
) -> None:
    """With an average too slow to follow the raw weights must win."""
    slow = lay_over(config(tmp_path / "source", steps=24), optimizer={"ema": ema})
    run = train(slow, tmp_path / "run")
    lines = [line for line in read_metrics(run.folder / "metrics.jsonl") if line.get("evaluation") == "val"]
    names = {"raw_top1", "averaged_top1"} if ema else {"raw_top1"}
    assert all({name for name in line if name.endswith("_top1")} == names for line in lines if line["step"])
    assert all(line["top1"] == max(line[name] for name in names if name in line) for line in lines)
    assert all(line["top1"] == line[f"{line['weights']}_top1"] for line in lines)
    evaluation = evaluate(Classifier.load(run.folder, device="cpu"), open_data(slow.data).val)
    assert evaluation.top1 == max(line["top1"] for line in lines)


@pytest.mark.parametrize("patience", [None, 3])
def test_a_run_never_ends_below_its_own_start(
    tmp_path: Path, patience: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The classes stay, and so does the head; then a rate that destroys what was learned."""
    quick = lay_over(
        small_data("digits", model="timm/test_resnet", image_size=32),
        run={**PACE, "steps": 60, "evaluate_every": 60, "save_every": 60, "precision": "float32"},
        optimizer={"learning_rate": 1e-2},
        data={"workers": 0},
    )
    first = train(quick, tmp_path / "first")
    assert first.evaluation.top1 > 0.5
    wild = lay_over(
        finetune("digits", first.folder),
        run={**PACE, "steps": 6, "evaluate_every": 3, "precision": "float32", "patience": patience},
        optimizer={"learning_rate": 1.0, "warmup": 0.0, "ema": 0.0, "batch_norms": "moving"},
        data={"workers": 0},
    )
    run = train(wild, tmp_path / "run")
    lines = [line for line in read_metrics(run.folder / "metrics.jsonl") if line.get("evaluation") == "val"]
    assert lines[0]["step"] == 0
    assert all(line["top1"] < lines[0]["top1"] for line in lines[1:])
    before, after = read_tensors(run.folder / INITIAL), read_tensors(run.classifier / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "the classifier is that of the initial weights, the best on validation" in capfd.readouterr().err


def test_a_higher_resolution_keeps_the_tables(tmp_path: Path) -> None:
    run = train(config(tmp_path / "source", image_size=(48, 64), steps=3), tmp_path / "run")
    stored = TrainConfig.model_validate_json((run.folder / "config.json").read_bytes())
    assert (stored.preprocess.image_size, stored.model.image_size) == ((48, 64), 32)
    classifier = Classifier.load(run.folder, device="cpu")
    assert classifier.preprocess.image_size == (48, 64)
    assert classifier.engine.model.network_config.image_size == 32  # type: ignore[attr-defined]
    create_model(stored.model).load_state_dict(read_tensors(run.classifier / "model.safetensors"))


def test_a_run_may_replace_its_own_source(tmp_path: Path) -> None:
    first = train(config(tmp_path / "source", steps=2), tmp_path / "run")
    again = finetune("digits", first.folder)
    assert again.initial is not None
    assert again.initial.head.startswith("kept")
    again = lay_over(again, run={**PACE, "steps": 2, "patience": None}, data={"workers": 0})
    train(again, tmp_path / "run", overwrite=True)
    assert states(tmp_path / "run")[0].keys() == states(tmp_path / "run")[1].keys()
