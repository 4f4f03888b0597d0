"""Two processes of which each keeps its share of the parameters: the same run as with all of them, from less memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coatnet.classifier import Classifier
from coatnet.errors import ConfigError, ResourceError
from coatnet.training.config import RunConfig, TrainConfig, lay_over
from coatnet.training.loop import train
from coatnet.training.memory import fit, step_memory
from training.test_faults import each, stored
from training.test_loop import TINY, final
from training.test_parallel import config

STEPS = 10


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "evaluation" not in line]


def cut_back(folder: Path, copy: Path, accumulate: int) -> Path:
    """The run as it was after step 5, in micro-batches that make the same steps in another number of processes."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:09d}")
    shutil.rmtree(copy / "classifier")
    settled = json.loads((copy / "config.json").read_text())
    settled["run"]["accumulate"] = accumulate
    (copy / "config.json").write_text(json.dumps(settled))
    return copy


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One run shared out and one not; each then goes on from its middle in another number of processes."""
    place = tmp_path_factory.mktemp("runs")
    pace = {"steps": STEPS, "save_every": 5, "evaluate_every": 5, "accumulate": 2, "patience": 9}
    kinds = {
        "none": {"shard": "none"},
        "parameters": {"shard": "parameters"},
        "recomputed": {"shard": "parameters", "recompute": True},
    }
    for name, kind in kinds.items():
        stored(lay_over(config(**pace), run=kind), place / f"{name}.json")
    codes, said = each(*(["two", "train", str(place / f"{name}.json"), str(place / name)] for name in kinds))
    assert codes == [0, 0, 0], said
    alone = cut_back(place / "parameters", place / "alone", 4)
    again = cut_back(place / "parameters", place / "again", 2)
    codes, said = each(["resume", str(alone)], ["two", "resume", str(again)])
    assert codes == [0, 0], said
    return place


def test_the_loss_curve_is_that_of_whole_copies(runs: Path) -> None:
    assert len(losses(runs / "none")) == STEPS
    assert losses(runs / "parameters") == pytest.approx(losses(runs / "none"), abs=1e-4)
    assert losses(runs / "parameters") != losses(runs / "none")  # sums in another order: it was another way


def test_blocks_that_are_computed_again_are_gathered_again(runs: Path) -> None:
    assert final(runs / "recomputed") == final(runs / "parameters")


def test_its_files_are_those_of_any_run(runs: Path) -> None:
    for name in ("model", "ema", "optimizer", "best"):
        shared, own = (
            load_file(runs / run / "checkpoints" / f"step-{STEPS:09d}" / f"{name}.safetensors")
            for run in ("parameters", "none")
        )
        assert {key: value.shape for key, value in shared.items()} == {key: value.shape for key, value in own.items()}
    assert Classifier.load(runs / "parameters").class_names == tuple("0123456789")
    evaluated = [json.loads((runs / run / "evaluation.json").read_text()) for run in ("parameters", "none")]
    assert evaluated[0]["images"] == evaluated[1]["images"] == 359


def test_it_goes_on_in_one_process_and_in_two(runs: Path) -> None:
    assert losses(runs / "alone") == pytest.approx(losses(runs / "parameters"), abs=1e-4)
    assert final(runs / "again") == final(runs / "parameters")


def test_each_process_holds_its_share(tmp_path: Path) -> None:
    path = stored(config(steps=2, shard="parameters"), tmp_path / "config.json")
    codes, said = each(["two", "shares", str(path), str(tmp_path)])
    assert codes == [0], said
    parameters = sum(parameter.numel() for parameter in torch.nn.Module.parameters(_tiny()))
    held = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for kind in ("weights", "averages", "moments"):
        whole = parameters * (2 if kind == "moments" else 1)
        assert sum(one[kind] for one in held) == whole
        assert max(one[kind] for one in held) < 0.55 * whole


def _tiny() -> torch.nn.Module:
    from coatnet.model.family import create_model

    return create_model(TINY)


def test_it_is_chosen_where_the_whole_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from coatnet.training import memory

    monkeypatch.setattr(memory, "is_joined", lambda: True)
    monkeypatch.setattr(memory, "world_size", lambda: 8)
    need = 16 * sum(parameter.numel() for parameter in _tiny().parameters())
    device, chosen = torch.device("cpu"), config(batch_size=16)
    assert fit(chosen, device, 10**9).run.shard == "none"
    small = lay_over(chosen, run={"shard": "parameters"})
    enough = step_memory(small, device).of(2)
    if enough < need:
        assert fit(chosen, device, enough).run.shard == "parameters"
    with pytest.raises(ResourceError, match="weights, gradients and moments need"):
        fit(chosen, device, need // 8)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shard parameters needs several processes"):
        train(config(shard="parameters"), tmp_path / "run")
    with pytest.raises(ValueError, match="compile and shard parameters exclude each other"):
        RunConfig(steps=1, shard="parameters", compile=True)
    with pytest.raises(ValueError, match="compile and recompute exclude each other"):
        RunConfig(steps=1, recompute=True, compile=True)
    with pytest.raises(ConfigError, match="sync_batch_norm joins several GPUs, and this is 1 process on cpu"):
        train(config(sync_batch_norm=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    guest = {**config().model_dump(), "model": {"guest": "timm/resnet18", "num_classes": 10, "image_size": 32}}
    guest["run"]["recompute"] = True
    with pytest.raises(ValueError, match="recompute is for members of the family, not for timm/resnet18"):
        TrainConfig.model_validate(guest)
