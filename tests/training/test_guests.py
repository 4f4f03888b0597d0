"""A guest is trained like a member, and resumed bit for bit, though it draws from torch's own generators."""

from pathlib import Path

import pytest
import torch

from coatnet.classifier import Classifier
from coatnet.cli import main
from coatnet.errors import ConfigError
from coatnet.model.family import member
from coatnet.model.tensors import read_tensors
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.loop import resume, train
from coatnet.training.optimizer import EMA_WARMUP_POWER
from coatnet.training.recipes import small_data
from training.test_loop import final, stopped_at


def config(guest: str, **network: object) -> TrainConfig:
    """A run of some seconds."""
    whole = small_data("digits", model=f"timm/{guest}", image_size=32)
    pace = {"steps": 8, "batch_size": 8, "evaluate_every": 8, "save_every": 4, "log_every": 1, "device": "cpu"}
    return lay_over(whole, run={**pace, "keep_checkpoints": 9}, data={"workers": 0}, model=network)


@pytest.mark.parametrize(("guest", "network"), [("test_vit", {"stochastic_depth": 0.5}), ("test_resnet", {})])
def test_a_resumed_guest_equals_an_uninterrupted_one(tmp_path: Path, guest: str, network: dict[str, object]) -> None:
    train(config(guest, **network), tmp_path / "whole")
    copy = stopped_at(tmp_path / "whole", 4, tmp_path / "stopped")
    resume(copy)
    assert final(copy) == final(tmp_path / "whole")
    assert f"timm/{guest}, 0." in (copy / "report.html").read_text()
    assert Classifier.load(copy).engine.model.network_config == member(f"timm/{guest}").replace(
        num_classes=10, image_size=32, **network
    )


def test_the_average_of_a_guest_follows_all_its_weights_past_evaluations(tmp_path: Path) -> None:
    """Against the same average, computed from the checkpoint of each step."""
    pace = {"steps": 6, "evaluate_every": 2, "save_every": 1, "keep_checkpoints": 9, "precision": "float32"}
    train(lay_over(config("test_resnet"), run=pace, optimizer={"ema": 0.6}), tmp_path / "run")
    average: dict[str, torch.Tensor] = {}
    for step, folder in enumerate(sorted((tmp_path / "run" / "checkpoints").iterdir()), start=1):
        decay = min(1 - step**-EMA_WARMUP_POWER, 0.6)
        for name, tensor in read_tensors(folder / "model.safetensors").items():
            average[name] = average.get(name, tensor) * decay + tensor * (1 - decay)
    assert step == 6
    for name, tensor in read_tensors(folder / "ema.safetensors").items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, average[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_guest_that_cannot_be_built_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timm/vgg11 has no stochastic depth"):
        train(config("vgg11", stochastic_depth=0.1), tmp_path / "run")
    with pytest.raises(ConfigError, match="timm/test_coatnet does not work at 40 px"):
        train(config("test_coatnet", image_size=40), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guest_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    words = ["train", "digits", "--model", "timm/test_resnet", "--image-size", "32", "--device", "cpu", "--out", out]
    assert main([*words, "--steps", "2", "--batch", "4", "--workers", "0"]) == 0
    assert main(["train", "digits", "--model", "timm/test_vit", "--out", out, "--resume"]) == 2
    assert f"--model: {out} trains another than timm/test_vit" in capsys.readouterr().err
    assert main(["train", "digits", "--model", "timm/tset_vit"]) == 2
    assert "timm has no model 'timm/tset_vit'; did you mean timm/test_vit" in capsys.readouterr().err
