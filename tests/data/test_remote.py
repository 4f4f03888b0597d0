"""Shards in an object store: a real S3 server on this machine, s3fs as its client, workers that fork."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from cli.drawn import draw_classes
from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.images import ImageError
from coatnet.data.loader import TrainingStream
from coatnet.data.packing import PackConfig, pack
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig, open_data, open_unsplit
from coatnet.errors import DataError, MissingPartError

pytest.importorskip("moto", reason="the extra dev brings moto and s3fs")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server():
    """The address of an S3 server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            _wait_for(address)
            yield address
    finally:
        process.kill()
        process.wait()


def _wait_for(address):
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)


@pytest.fixture(scope="module")
def shards(server, tmp_path_factory):
    """A folder of shards, and the address of its copy in a bucket."""
    folder = tmp_path_factory.mktemp("remote")
    draw_classes(folder / "shapes", count=12)
    pack(DataConfig(path=str(folder / "shapes")), folder / "shards", PackConfig())
    store = s3fs.S3FileSystem()
    store.mkdir("pictures")
    for path in (folder / "shards").iterdir():
        store.put(str(path), f"pictures/some/shapes/{path.name}")
    return folder / "shards", "s3://pictures/some/shapes/"


def files(source):
    return [(source.names[index], int(source.labels[index]), source.read(index)) for index in range(len(source))]


def test_an_address_is_the_same_data_as_the_folder(shards):
    folder, address = shards
    local, remote = open_unsplit(str(folder)), open_unsplit(address)
    assert files(remote) == files(local)
    assert open_data(DataConfig(path=address)).chosen == open_data(DataConfig(path=str(folder))).chosen
    assert files(open_unsplit(folder.as_uri())) == files(local)


def test_what_was_read_once_is_not_fetched_again(shards, monkeypatch):
    _, address = shards
    expected = files(open_unsplit(address))
    source = open_unsplit(address)
    monkeypatch.setattr(s3fs.S3FileSystem, "cat_file", None)
    assert files(source) == expected


def test_without_a_place_for_copies_it_works(shards, tmp_path, monkeypatch):
    folder, address = shards
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert files(open_unsplit(address)) == files(open_unsplit(str(folder)))


def test_workers_read_and_resume_as_from_the_folder(shards, tmp_path, monkeypatch):
    folder, address = shards

    def batches(path, workers, start):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{workers}-{start}"))
        source = open_data(DataConfig(path=path)).train
        values = dict(seed=3, batch_size=4, workers=workers, memory=0)
        stream = TrainingStream(source, Preprocess(image_size=(32, 32)), AugmentationConfig(), **values)
        return [(batch.images.numpy().tobytes(), batch.labels.tolist()) for batch in stream.batches(start, 10)]

    whole = batches(str(folder), 0, 0)
    assert batches(address, 0, 0) == whole
    assert batches(address, 2, 0) == whole
    assert batches(address, 2, 6) == whole[6:]


def test_foreign_shards_at_an_address(shards, server, tmp_path):
    folder, _ = shards
    store = s3fs.S3FileSystem()
    store.put(str(folder / "shard-000000.tar"), "pictures/foreign/train/a.tar")
    source = open_unsplit("s3://pictures/foreign")
    assert [row[2] for row in files(source)] == [row[2] for row in files(open_unsplit(str(folder)))]
    assert source.names[0].startswith("train/a.tar/")
    assert len(open_unsplit("s3://pictures/foreign/train/a.tar")) == len(source)


def test_replaced_shards_are_seen(server, tmp_path):
    """Not by their size or their index: both are the same."""
    store = s3fs.S3FileSystem()
    for color in ("red", "blue"):
        for name in ("a", "b"):
            (tmp_path / color / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), color).save(tmp_path / color / name / "0.bmp")
        pack(DataConfig(path=str(tmp_path / color)), tmp_path / f"{color}-shards", PackConfig())
        for path in (tmp_path / f"{color}-shards").iterdir():
            store.put(str(path), f"pictures/replaced/{path.name}")
        assert files(open_unsplit("s3://pictures/replaced")) == files(open_unsplit(str(tmp_path / color)))


def test_what_is_not_there(shards, server):
    for address in ("s3://pictures/nothing", "s3://no-such-bucket/x"):
        with pytest.raises(DataError) as caught:
            open_unsplit(address)
        assert address in caught.value.message
        assert "\n" not in caught.value.message
    _, address = shards
    source = open_unsplit(address)
    source.copies = None
    store = s3fs.S3FileSystem()
    store.mv("pictures/some/shapes/shard-000000.tar", "pictures/elsewhere.tar")
    with pytest.raises(ImageError, match="unreadable"):
        source.read(0)
    store.mv("pictures/elsewhere.tar", "pictures/some/shapes/shard-000000.tar")
    assert source.read(0)


def test_a_missing_part_is_named():
    with pytest.raises(MissingPartError, match="remote") as caught:
        open_unsplit("gs://bucket/x")
    assert ".[remote]" in caught.value.hint
    with pytest.raises(DataError, match="no address that is understood"):
        open_unsplit("nonsense://bucket/x")


@pytest.mark.slow
def test_a_run_from_an_address(shards, tmp_path):
    _, address = shards
    words = ["train", address, "--out", tmp_path / "run", "--steps", "4", "--model", "coatnet_mini_32", "--batch", "8"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for more in (words, ["evaluate", tmp_path / "run"], ["resume", tmp_path / "run"]):
        done = subprocess.run(
            [sys.executable, "-m", "coatnet", *map(str, more)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert f'"{address}"' in (tmp_path / "run" / "config.json").read_text()
