"""What a run says and does when its data is otherwise than when it began."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cli.drawn import draw_classes
from coatnet.cli import main
from coatnet.data.samples import BytesSource
from coatnet.data.sources import Splits, open_data
from coatnet.errors import ConfigError, DataError, ModelFileError
from coatnet.training.changes import DataRecord, changes, check_same_everywhere
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder
from coatnet.training.loop import resume, train
from coatnet.training.recipes import small_data
from training.test_claim import holder
from training.test_loop import TINY


def chosen(data: Path) -> TrainConfig:
    config = small_data(str(data)).replace(model=TINY.replace(num_classes=3))
    pace = {"steps": 4, "batch_size": 4, "evaluate_every": 4, "save_every": 2, "device": "cpu"}
    return lay_over(config, run=pace, data={"workers": 0})


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and a run on it that has its last checkpoint, and nothing of what comes after. To be copied."""
    root = tmp_path_factory.mktemp("begun")
    data = draw_classes(root / "shapes")
    train(chosen(data), root / "run")
    for name in ("classifier", "plots"):
        shutil.rmtree(root / "run" / name)
    return data, root / "run"


@pytest.fixture
def moved(begun: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return tuple(Path(shutil.copytree(one, tmp_path / one.name)) for one in begun)  # type: ignore[return-value]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lambda data: shutil.rmtree(data / "cross"), "'cross' went"),
    "emptied": (lambda data: [path.unlink() for path in (data / "cross").iterdir()], "'cross' went"),
    "renamed": (lambda data: (data / "cross").rename(data / "plus"), "'cross' went, 'plus' came"),
    "added": (lambda data: shutil.copytree(data / "cross", data / "plus"), "'plus' came"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_with_other_classes_a_run_does_not_go_on(moved: tuple[Path, Path], change: str) -> None:
    data, run = moved
    before = contents(run)
    act, told = CHANGES[change]
    act(data)
    with pytest.raises(DataError, match=told):
        resume(run, data=str(data))
    after = contents(run)
    assert {name: after[name] for name in before} == before
    with pytest.raises(DataError, match=told):  # nor does a new one begin with a config that was made before
        train(lay_over(RunFolder(run).read_config(), data={"path": str(data)}), run.with_name("new"))
    assert not run.with_name("new").exists()


def test_data_that_moved_is_found_and_stored(moved: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    data, run = moved
    with (data / "circle" / "0.png").open("ab") as file:
        file.write(b"more")
    shutil.copy(data / "circle" / "1.png", data / "circle" / "new.png")
    assert main(["resume", str(run), "--data", str(data)]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "The images changed since the split was chosen (18 then, 19 now)" in said
    assert "train: other images than when the run began, 12 then, 13 now" in said
    assert "images looked at have changed: 'circle/0.png'" in said
    assert RunFolder(run).read_config().data.path == str(data)


def test_data_that_is_gone_is_asked_for(moved: tuple[Path, Path]) -> None:
    _, run = moved
    config = RunFolder(run).read_config()
    RunFolder(run).write_config(config.replace(data=config.data.replace(path=str(run / "gone"))))
    with pytest.raises(DataError, match="does not exist") as raised:
        resume(run)
    assert f"coatnet resume {run} --data" in raised.value.hint


def source(names: list[str], labels: list[int], class_names: tuple[str, ...] = ("a", "b")) -> BytesSource:
    return BytesSource(class_names, np.array(labels), names, [name.encode() for name in names])


def splits(train_labels: list[int]) -> Splits:
    return Splits(source(["1", "2", "3"], train_labels), source(["4"], [0]), None, None)


def test_other_labels_and_other_parts_are_told(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    assert changes(path, splits([0, 1, 0])) == []
    path.write_text(DataRecord.of(splits([0, 1, 0])).model_dump_json())
    assert changes(path, splits([0, 1, 0])) == []
    assert changes(path, splits([0, 1, 1])) == ["train: images have other labels than when the run began"]
    with_test = Splits(*(splits([0, 1, 0]).train, source(["4"], [0]), source(["5"], [0]), None))
    assert changes(path, with_test) == ["the run began without a test split"]
    path.write_bytes(b"\xff{")
    assert "is damaged" in changes(path, splits([0, 1, 0]))[0]


def test_each_process_must_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    check_same_everywhere(splits([0, 1, 0]))
    other = DataRecord.of(splits([0, 1, 1]), with_examples=False)
    monkeypatch.setattr("coatnet.training.changes.gathered", lambda own: [own, other])
    with pytest.raises(DataError, match="process 1 of this run sees other images or labels than process 0"):
        check_same_everywhere(splits([0, 1, 0]))


def test_the_same_classes_in_another_order_keep_their_labels(image_folder: Path) -> None:
    config = chosen(image_folder).data
    turned = open_data(config, None, ("square", "circle", "cross"))
    for part in (turned.train, turned.val):
        assert part.class_names == ("square", "circle", "cross")
        assert all(
            name.startswith(part.class_names[label])
            for name, label in zip(part.names, part.labels.tolist(), strict=True)
        )


def test_a_start_that_ends_in_an_unreadable_image_leaves_nothing_in_the_way(image_folder: Path, tmp_path: Path) -> None:
    for path in sorted((image_folder / "cross").iterdir())[:4]:
        path.write_bytes(b"no image")
    with pytest.raises(DataError):
        train(chosen(image_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_going_on_is_not_resumed(moved: tuple[Path, Path]) -> None:
    data, run = moved
    before = contents(run)
    with holder(run):
        with pytest.raises(ConfigError, match="is in use by process"):
            resume(run)
        with pytest.raises(ConfigError, match="is in use by process"):
            train(chosen(data), run, overwrite=True)
    assert {name: held for name, held in contents(run).items() if name in before} == before


def run_config(run: Path, **values: object) -> None:
    """Change config.json by hand."""
    path = run / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, **values}))


@pytest.mark.parametrize("width", [16, 1 << 20])
def test_a_config_of_another_network_is_refused(moved: tuple[Path, Path], width: int) -> None:
    """A little wider does not fit the checkpoint; absurdly wide reserves no memory first."""
    data, run = moved
    model = json.loads((run / "config.json").read_text())["model"]
    run_config(run, model={**model, "stem_width": width})
    with pytest.raises(ModelFileError, match=r"config\.json describes a network of more|does not fit the run"):
        resume(run, data=str(data))


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"[1]", b'{"a'])
def test_a_damaged_environment_is_written_anew(
    moved: tuple[Path, Path], damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    data, run = moved
    (run / "environment.json").write_bytes(damage)
    (run / "evaluation.json").write_bytes(damage)
    with pytest.raises(ModelFileError, match=r"evaluation\.json is missing or damaged"):
        RunFolder(run).read_evaluation()
    if damage:
        with pytest.raises(ModelFileError, match=r"split\.json|config\.json"):
            (run / "split.json").write_bytes(damage)
            resume(run, data=str(data))
        return
    resume(run, data=str(data))
    assert "environment.json was damaged" in " ".join(capfd.readouterr().err.split())
    assert RunFolder(run).read_environment()["python"]
    assert RunFolder(run).read_evaluation()["split"] == "test"
