"""Tar shards against loose files, and the start on many files.

python benchmarks/shards.py DATA --folder EMPTY_FOLDER

DATA is any data set of photographs. Reading is in a random order, as training reads, in one process without threads;
the page cache is warm. Each figure is the median of five passes over 1000 images.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from coatnet.data.images import decode
from coatnet.data.packing import PackConfig, pack
from coatnet.data.sources import DataConfig, Source, open_unsplit

NUM_READ, NUM_PASSES = 1000, 5
NUM_REMOTE = 200  # the test server takes some 0.1 s for each
NUM_CLASSES, NUM_FILES = 1000, 200_000
OPENING = """
import resource, sys, time
started = time.perf_counter()
from coatnet.data.sources import DataConfig, open_data, open_unsplit
imported = time.perf_counter()
source = open_unsplit(sys.argv[1])
opened = time.perf_counter()
splits = open_data(DataConfig(path=sys.argv[1]))
print(f"{imported - started:.2f} s to import, {opened - imported:.2f} s to open {len(source)} images, "
      f"{time.perf_counter() - opened:.2f} s to open and split, "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
"""


def loose_files(source: Source, folder: Path) -> None:
    for index in range(len(source)):
        place = folder / source.class_names[source.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:06d}.jpg").write_bytes(source.read(index))


def rate(source: Source, with_decode: bool) -> str:
    rates = []
    for number in range(NUM_PASSES):
        order = np.random.default_rng(number).permutation(len(source))[:NUM_READ].tolist()
        started = time.perf_counter()
        for index in order:
            data = source.read(index)
            if with_decode:
                decode(data)
        rates.append(len(order) / (time.perf_counter() - started))
    return f"{statistics.median(rates):,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f})"


def timed_pack(name: str, data: Path, folder: Path, config: PackConfig) -> None:
    started = time.perf_counter()
    told = pack(DataConfig(path=str(data)), folder, config)
    taken = time.perf_counter() - started
    size = told.num_bytes / 1e6
    print(f"pack, {name}: {told.num_images / taken:,.0f} images/s, {size / taken:,.0f} MB/s, {size:,.1f} MB")


def shards_against_files(data: str, folder: Path) -> None:
    loose_files(open_unsplit(data), folder / "loose")
    timed_pack("as they are", folder / "loose", folder / "shards", PackConfig(shard_size=64))
    timed_pack("--size 160", folder / "loose", folder / "small", PackConfig(size=160))
    for name in ("loose", "shards", "small"):
        source = open_unsplit(str(folder / name))
        print(f"{name}: read {rate(source, False)}; read and decode {rate(source, True)}")
    (folder / "shards" / "index.parquet").rename(folder / "index.parquet")
    for name in ("first look at shards without an index", "second"):
        started = time.perf_counter()
        open_unsplit(str(folder / "shards"))
        print(f"{name}: {time.perf_counter() - started:.2f} s")
    (folder / "index.parquet").rename(folder / "shards" / "index.parquet")


def many_files(folder: Path) -> None:
    for number in range(NUM_CLASSES):
        place = folder / f"n{number:08d}"
        place.mkdir(parents=True)
        for index in range(NUM_FILES // NUM_CLASSES):
            (place / f"n{number:08d}_{index}.JPEG").touch()
    time.sleep(3)  # a listing is remembered when its folders have not changed for two seconds
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.with_name("cache"))}
    for name in ("first start", "second start", "third start"):
        words = [sys.executable, "-c", OPENING, str(folder)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        print(f"{NUM_FILES} files in {NUM_CLASSES} folders, {name}: {done.stdout.strip()}")


def object_store(folder: Path) -> None:
    """A bucket of an S3 server on this machine (moto), which no network slows down."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "XDG_CACHE_HOME": str(folder / "remote-cache"),
        }
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        for path in (folder / "shards").iterdir():
            store.put(str(path), f"bucket/shards/{path.name}")
        source = open_unsplit("s3://bucket/shards").subset(range(NUM_REMOTE))
        for name in ("first epoch", "second epoch"):
            started = time.perf_counter()
            for index in range(NUM_REMOTE):
                source.read(index)
            print(f"s3, {name}: read {NUM_REMOTE / (time.perf_counter() - started):,.0f} images/s")
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="photographs")
    parser.add_argument("--folder", type=Path, required=True, help="where there is room; must be empty")
    arguments = parser.parse_args()
    folder = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    shards_against_files(arguments.data, folder)
    object_store(folder)
    many_files(folder / "many")


if __name__ == "__main__":
    main()
