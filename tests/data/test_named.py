"""torchvision's data sets by name, laid out on the spot as torchvision leaves them; nothing is downloaded."""

import hashlib
import json
import os
import pickle
import socket

import numpy as np
import pytest
from PIL import Image

from coatnet.cli import main
from coatnet.data.images import decode
from coatnet.data.sources import DataConfig, find_parts, open_data, stored_path
from coatnet.data.user_cache import cache_folder
from coatnet.errors import MissingPartError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where torchvision's folders go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    cache_folder("datasets").mkdir(parents=True)
    return cache_folder("datasets")


def draw(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (level, 0, 0)).save(path, quality=95)


def test_cifar10(place, monkeypatch):
    from torchvision import datasets

    folder = place / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 20, 3, 32, 32), dtype=np.uint8)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    labels = [[(batch + index) % 10 for index in range(20)] for batch in range(6)]
    batches = [{"data": pixels[index].reshape(20, -1), "labels": labels[index]} for index in range(6)]
    names = [f"class {index}" for index in range(10)]
    # The real files have known sums; these have theirs.
    train = [write(f"data_batch_{index + 1}", batches[index]) for index in range(5)]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [write("test_batch", batches[5])])
    meta = dict(zip(("filename", "md5"), write("batches.meta", {"label_names": names}), strict=True))
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**meta, "key": "label_names"})

    parts = find_parts(DataConfig(path="cifar10")).parts
    assert {part: len(source) for part, source in parts.items()} == {"train": 100, "test": 20}
    assert parts["train"].class_names == tuple(names)
    assert parts["train"].labels.tolist() == [label for batch in labels[:5] for label in batch]
    for index in (0, 33, 99):
        expected = pixels[index // 20, index % 20].transpose(1, 2, 0)
        assert np.array_equal(decode(parts["train"].read(index)), expected)
    assert len(open_data(DataConfig(path="cifar10")).test) == 20


def test_food101(place):
    meta = {}
    for part, count in (("train", 4), ("test", 2)):
        meta = {name: [f"{name}/{part}{index}" for index in range(count)] for name in ("apple_pie", "waffles")}
        (place / "food-101" / "meta").mkdir(parents=True, exist_ok=True)
        (place / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(meta))
        for level, name in enumerate(name for names in meta.values() for name in names):
            draw(place / "food-101" / "images" / f"{name}.jpg", 20 * level)
    parts = find_parts(DataConfig(path="food101")).parts
    assert parts["train"].class_names == ("apple_pie", "waffles")
    assert parts["train"].labels.tolist() == [0] * 4 + [1] * 4
    assert parts["test"].read(3) == (place / "food-101" / "images" / "waffles" / "test1.jpg").read_bytes()


def test_oxford_pets(place):
    folder = place / "oxford-iiit-pet"
    for part, count in (("trainval", 3), ("test", 2)):
        lines = []
        for label, breed in ((1, "Abyssinian"), (2, "basset_hound")):
            for index in range(count):
                draw(folder / "images" / f"{breed}_{part}{index}.jpg", 50 * label + index)
                lines.append(f"{breed}_{part}{index} {label} 1 1\n")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))
    splits = open_data(DataConfig(path="oxford_pets"))
    assert splits.test.class_names == ("Abyssinian", "Basset Hound")
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert len(splits.train) + len(splits.val) == 6


def test_a_folder_of_that_name_goes_first(place, tmp_path):
    assert stored_path("food101") == "food101"
    for name in ("a", "b"):
        draw(tmp_path / "food101" / name / "0.png", 3)
    assert find_parts(DataConfig(path="food101")).parts["all"].class_names == ("a", "b")
    assert stored_path("food101") == str(tmp_path / "food101")


@pytest.mark.parametrize("name", ["cifar10", "flowers102", "food101", "oxford_pets", "dtd", "mnist"])
def test_without_a_network_it_says_so(place, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for variable in [variable for variable in os.environ if variable.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    with pytest.raises(MissingPartError) as caught:
        find_parts(DataConfig(path=name))
    assert f"{name} is not in {place} and cannot be downloaded" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 5


def test_the_command_says_so_in_one_line(place, monkeypatch, capsys):
    for name in ("http_proxy", "https_proxy"):  # a closed port, as on a machine without a network
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert main(["train", "cifar10"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["coatnet", "hint"]
    assert "cannot be downloaded" in lines[0]
