"""Data sets of the hub by name, from the library's own cache, made on the spot; nothing is downloaded."""

import io
import socket
import sys
import time

import numpy as np
import pytest
from PIL import Image

from coatnet.data.images import decode
from coatnet.data.sources import DataConfig, find_parts, open_data, stored_path
from coatnet.errors import DataError, MissingPartError

datasets = pytest.importorskip("datasets")
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the library keeps data sets; and no network."""

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(colour, level):
    file = io.BytesIO()
    Image.fromarray(np.full((12, 10, 3), np.clip(np.array(colour) + level, 0, 255), np.uint8)).save(file, "PNG")
    return file.getvalue()


def lay_out(cache, tmp_path, *, image="img", splits=("train", "validation", "test"), secret=False, twice=False):
    """What `load_dataset("me/shapes")` leaves in the cache once the hub gave its Parquet files."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    kinds = datasets.Features({image: datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))})
    if twice:
        kinds["second"] = kinds["label"]
    files = {}
    for place, split in enumerate(splits):
        count = 9 - 3 * place
        rows = {
            image: [{"bytes": png(list(COLOURS.values())[row % 3], row), "path": f"{row}.png"} for row in range(count)],
            "label": [-1 if secret and split == "test" else row % 3 for row in range(count)],
        }
        if twice:
            rows["second"] = [2 - label for label in rows["label"]]
        files[split] = str(tmp_path / f"{split}.parquet")
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(files[split])
    builder = Parquet(cache_dir=str(cache), dataset_name="shapes", hash="0" * 8, data_files=files, features=kinds)
    builder.download_and_prepare()
    (cache / "shapes").rename(cache / "me___shapes")  # as the hub's are called
    next((cache / "me___shapes").iterdir()).rename(cache / "me___shapes" / "default")


def test_a_cached_one_opens_without_a_network(cache, tmp_path):
    lay_out(cache, tmp_path)
    config = DataConfig(path="hf:me/shapes")
    parts = find_parts(config).parts
    assert {part: len(source) for part, source in parts.items()} == {"train": 9, "val": 6, "test": 3}
    train = parts["train"]
    assert train.class_names == ("red", "green", "blue")
    assert train.labels.tolist() == [0, 1, 2] * 3
    assert train.names[:2] == ["me/shapes/train/000000", "me/shapes/train/000001"]
    for index in (0, 4, 8):
        assert train.read(index) == png(list(COLOURS.values())[index % 3], index)
        assert decode(train.read(index)).shape == (12, 10, 3)
    splits = open_data(config)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (9, 6, 3)
    assert stored_path("hf:me/shapes") == "hf:me/shapes"


def test_other_splits_and_secret_labels_are_told(cache, tmp_path):
    lay_out(cache, tmp_path, image="image", splits=("train", "extra", "test"), secret=True)
    found = find_parts(DataConfig(path="hf:me/shapes"))
    assert set(found.parts) == {"train"}
    assert found.notes == (
        "Split 'extra' of hf:me/shapes is not used.",
        "The test split has no labels (all are -1) and is not used.",
    )


def test_a_column_that_is_not_there_and_not_the_only_one(cache, tmp_path):
    lay_out(cache, tmp_path, twice=True)
    found = find_parts(DataConfig(path="hf:me/shapes", label_column="second"))
    assert found.parts["train"].labels.tolist() == [2, 1, 0] * 3
    with pytest.raises(DataError, match=r"hf:me/shapes has no column 'kind'; it has 'img', 'label', 'second'"):
        find_parts(DataConfig(path="hf:me/shapes", label_column="kind"))


def test_without_a_network_it_says_so_at_once(cache):
    began = time.monotonic()
    with pytest.raises(MissingPartError) as told:
        find_parts(DataConfig(path="hf:me/absent"))
    assert time.monotonic() - began < 30  # not the library's own minutes
    assert told.value.message.startswith(f"the data set me/absent is not in {cache}, and the hub does not ")
    assert "\n" not in told.value.message
    assert told.value.exit_code == 5


def test_offline_the_hub_is_not_asked(cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingPartError, match="HF_HUB_OFFLINE forbids to ask the hub"):
        find_parts(DataConfig(path="hf:me/absent"))


def test_without_the_library_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPartError) as told:
        find_parts(DataConfig(path="hf:me/shapes"))
    assert told.value.hint == "in coatnet's source folder: pip install '.[hub-data]'"
