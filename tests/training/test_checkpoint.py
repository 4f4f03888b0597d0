import itertools
import os
import random
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

CRASHED = 9
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


def crash_before(event: int, folder: Path) -> None:
    """End this process before it changes anything in `folder` for the `event`-th time, as a power cut would."""
    seen = 0

    def look(name: str, place: object) -> None:
        nonlocal seen
        if name.startswith(("open", "os.", "save", "fsync")) and str(folder) in str(place):
            seen += 1
            if seen > event:
                os._exit(CRASHED)

    def audited(name: str, arguments: tuple[object, ...]) -> None:
        if arguments and name not in ("os.listdir", "os.scandir"):
            look(name, arguments[0])

    real_save, real_sync = checkpoint.save_tensors, os.fsync

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        look("save", path)  # no audit event: the file is opened by safetensors itself
        real_save(tensors, path)

    def sync(descriptor: int) -> None:
        look("fsync", Path(f"/proc/self/fd/{descriptor}").readlink() if sys.platform == "linux" else folder)
        real_sync(descriptor)

    sys.addaudithook(audited)
    checkpoint.save_tensors, os.fsync = save, sync


@pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes in a forked process")
@pytest.mark.parametrize("keep", [1, 2])
def test_a_crash_at_any_point_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path, keep: int) -> None:
    state = fresh_state(0)
    for _ in range(keep):
        advance(state)
        save_checkpoint(state, tmp_path / "before", keep)
    older = everything(state)
    advance(state)
    newer = everything(state)
    for event in itertools.count():
        folder = tmp_path / f"crash{event}"
        shutil.copytree(tmp_path / "before", folder)
        child = os.fork()
        if not child:
            crash_before(event, folder)
            save_checkpoint(state, folder, keep)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        loaded = fresh_state(1)
        assert load_newest(loaded, folder) == []
        assert loaded.step in (keep, keep + 1)
        assert_same(everything(loaded), older if loaded.step == keep else newer)
        save_checkpoint(state, folder, keep)  # what the crash left does not stand in the way
        load_newest(loaded, folder)
        assert_same(everything(loaded), newer)
        if code != CRASHED:
            break
    assert code == 0
    print(f"{event} points")
    assert event > 25  # each file is written, synced and read again, folders are synced, the oldest is removed


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_random_damage_is_never_loaded(tmp_path: Path, count: int) -> None:
    state, draws = fresh_state(0), random.Random(0)
    advance(state)
    save_checkpoint(state, tmp_path, keep=2)
    older = everything(state)
    advance(state)
    newest = save_checkpoint(state, tmp_path, keep=2)
    for _ in range(count):
        path = draws.choice(sorted(newest.iterdir()))
        data = path.read_bytes()
        place = draws.randrange(len(data))
        flipped = data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]
        path.write_bytes(flipped if draws.random() < 0.5 else data[:place])
        loaded = fresh_state(1)
        assert load_newest(loaded, tmp_path) == [f"{newest} is damaged and was passed over"]
        assert_same(everything(loaded), older)
        path.write_bytes(data)
    assert load_newest(fresh_state(1), tmp_path) == []


def test_a_damaged_newer_one_does_not_push_out_the_one_just_saved(tmp_path: Path) -> None:
    state = fresh_state(0)
    advance(state)
    (tmp_path / "step-000000009").mkdir()
    save_checkpoint(state, tmp_path, keep=1)
    loaded = fresh_state(1)
    load_newest(loaded, tmp_path)
    assert loaded.step == 1


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As on a disk with so much room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_leaves_the_older_one(tmp_path: Path) -> None:
    state = fresh_state(0)
    advance(state)
    older = save_checkpoint(state, tmp_path / "checkpoints", keep=1)
    sizes = sorted(path.stat().st_size for path in older.iterdir())
    advance(state)
    for share in range(20):
        size = sizes[0] + (sizes[-1] - sizes[0]) * share // 20
        with pytest.raises(ResourceError) as caught, no_file_above(size - 1):
            save_checkpoint(state, tmp_path / "checkpoints", keep=1)
        assert "step-000000002: File too large" in caught.value.message
        assert caught.value.exit_code == 7
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
        assert load_newest(fresh_state(1), tmp_path / "checkpoints") == []
