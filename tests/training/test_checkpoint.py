import errno
import os
from pathlib import Path

import pytest
import torch

from coatnet.errors import ModelFileError, ResourceError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.training import checkpoint
from coatnet.training.checkpoint import TrainingState, load_newest, save_checkpoint
from coatnet.training.config import OptimizerConfig
from coatnet.training.optimizer import create_ema, create_optimizer

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 8, 32, 32, 32), image_size=32, num_classes=4)


def fresh_state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = CoAtNet(CONFIG)
    config = OptimizerConfig(ema=0.9)
    return TrainingState(model, create_optimizer(model, config), create_ema(model, config))


def advance(state: TrainingState) -> None:
    state.model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    state.optimizer.step()
    state.step += 1
    assert state.ema
    state.ema.update(state.model, step=state.step)


def everything(state: TrainingState) -> dict[str, torch.Tensor]:
    assert state.ema
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in state.ema.module.state_dict().items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_everything_comes_back(tmp_path: Path) -> None:
    saved, loaded = fresh_state(0), fresh_state(1)
    advance(saved)
    saved.best, saved.seconds, saved.losses = 0.75, 12.5, [torch.tensor(0.1)]
    saved.best_loss, saved.stale, saved.best_weights = 0.5, 3, {"head.bias": torch.arange(3.0)}
    save_checkpoint(saved, tmp_path, keep=2)
    assert load_newest(loaded, tmp_path) == []
    assert_same(everything(saved), everything(loaded))
    assert (loaded.step, loaded.best, loaded.seconds, loaded.losses) == (1, 0.75, 12.5, [torch.tensor(0.1)])
    assert (loaded.best_loss, loaded.stale) == (0.5, 3)
    assert_same(loaded.best_weights, saved.best_weights)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    state = fresh_state(0)
    for _ in range(4):
        advance(state)
        save_checkpoint(state, tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000003", "step-000000004"]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    state = fresh_state(0)
    advance(state)
    save_checkpoint(state, tmp_path, keep=2)
    older = everything(state)
    advance(state)
    path = save_checkpoint(state, tmp_path, keep=2) / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + (bytes([data[middle] ^ 1]) + data[middle + 1 :] if damage == "flip" else b""))
    loaded = fresh_state(1)
    assert load_newest(loaded, tmp_path) == [f"{path.parent} is damaged and was passed over"]
    assert_same(everything(loaded), older)


def test_without_any_whole_checkpoint_nothing_is_loaded(tmp_path: Path) -> None:
    state = fresh_state(0)
    advance(state)
    (save_checkpoint(state, tmp_path, keep=2) / "manifest.json").unlink()
    with pytest.raises(ModelFileError, match=r"every checkpoint in .* is damaged"):
        load_newest(fresh_state(1), tmp_path)
    assert load_newest(fresh_state(1), tmp_path / "nothing") == []


CALLS = ["save_file", "_sync", "_sha256"]


@pytest.mark.parametrize("place", [(name, number) for name in CALLS for number in range(3)])
def test_a_crash_within_a_save_leaves_the_older_one(
    tmp_path: Path, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fresh_state(0)
    advance(state)
    save_checkpoint(state, tmp_path, keep=1)
    older = everything(state)
    advance(state)
    name, number = place
    real, calls = getattr(checkpoint, name), []

    def crash(*arguments: object) -> object:
        calls.append(name)
        if len(calls) > number:
            raise KeyboardInterrupt  # as abrupt as an exception can be: no clean-up of ours catches it
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, name, crash)
        save_checkpoint(state, tmp_path, keep=1)
    loaded = fresh_state(1)
    load_newest(loaded, tmp_path)
    assert_same(everything(loaded), older)
    save_checkpoint(state, tmp_path, keep=1)  # what the crash left does not stand in the way
    load_newest(loaded, tmp_path)
    assert loaded.step == 2


def test_a_full_disk_is_named_and_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fresh_state(0)
    advance(state)
    save_checkpoint(state, tmp_path / "checkpoints", keep=1)
    advance(state)

    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(ResourceError) as caught:
        patch.setattr(checkpoint, "save_file", no_space)
        save_checkpoint(state, tmp_path / "checkpoints", keep=1)
    assert "step-000000002: No space left on device" in caught.value.message
    assert caught.value.exit_code == 7
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
