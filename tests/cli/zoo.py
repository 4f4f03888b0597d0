"""A folder of everything that can be wrong with what a user gives, made once."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cli.drawn import draw_classes

CLASSIFIER_FILES = ("model.safetensors", "config.json", "preprocess.json", "labels.json", "fingerprint.json")


def make_zoo(root, tiny_classifier):
    """Data sets, images, classifiers and runs below `root`, each broken in the way that its name says."""
    draw_classes(root / "flowers")
    _make_data(root)
    _make_images(root / "images")
    _make_classifiers(root, tiny_classifier)
    _make_runs(root)
    return root


def _make_data(root):
    draw_classes(root / "one_class", ("circle",))
    draw_classes(root / "single", count=1)
    draw_classes(root / "strange", ("circle", "daisy", "rose"))
    draw_classes(root / "empty_class", ("circle",))
    (root / "empty_class" / "cross").mkdir()
    (root / "empty").mkdir()
    draw_classes(root / "unknown_val" / "train", ("circle", "cross"))
    draw_classes(root / "unknown_val" / "val", ("circle", "daisy"))
    draw_classes(root / "only_val" / "val")
    draw_classes(root / "twice" / "val")
    shutil.copytree(root / "twice" / "val", root / "twice" / "valid")
    shutil.copytree(root / "twice" / "val", root / "twice" / "train")
    (root / "loose").mkdir()
    shutil.copy(root / "flowers" / "circle" / "0.png", root / "loose")
    _fill(root / "unreadable", b"no image")
    (root / "file.txt").write_text("some text")
    (root / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(pa.table({"picture": [b"x"], "label": [1]}), root / "columns.parquet")
    names = {b"label_names": b'["circle", "cross"]'}
    table = pa.table({"image": [b"x", b"y"], "label": [0, 7]}).replace_schema_metadata(names)
    pq.write_table(table, root / "labels.parquet")
    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), root / "numbers.parquet")
    (root / "no_header.csv").write_text("flowers/circle/0.png,circle\nflowers/cross/0.png,cross\n")
    (root / "missing.csv").write_text("path,label\nnot/here.png,circle\nnor/here.png,cross\n")
    (root / "cell.csv").write_text("path,label\nflowers/circle/0.png,circle\nflowers/cross/0.png,\n")
    (root / "empty.csv").write_text("path,label\n")
    (root / "split.csv").write_text("path,label,split\nflowers/circle/0.png,circle,trian\n")
    (root / "binary.csv").write_bytes(b"\xff\x00\x00\x80")


def _fill(folder, content):
    draw_classes(folder)
    for path in folder.rglob("*.png"):
        path.write_bytes(content)


def _make_images(folder):
    folder.mkdir()
    whole = (folder.parent / "flowers" / "circle" / "0.png").read_bytes()
    (folder / "whole.png").write_bytes(whole)
    (folder / "zero.png").write_bytes(b"")
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_bytes(b"this is no picture")
    (folder / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    (folder / "strip.png").write_bytes(_png_header(1, 10_000))
    (folder / "header.png").write_bytes(whole[:20] + b"\0" * 40)


def _png_header(width, height):
    """A PNG that says it is so large, and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _make_classifiers(root, whole):
    shutil.copytree(whole, root / "tiny")
    for name in CLASSIFIER_FILES:
        stem = Path(name).stem
        shutil.copytree(whole, root / f"without_{stem}")
        (root / f"without_{stem}" / name).unlink()
        shutil.copytree(whole, root / f"damaged_{stem}")
        content = (whole / name).read_bytes()
        (root / f"damaged_{stem}" / name).write_bytes(content[: len(content) // 2])
    _change(root, "two_labels", "labels.json", labels=["circle", "cross"])
    _change(root, "same_labels", "labels.json", labels=["circle", "circle", "square"])
    _change(root, "newer", "config.json", format=99)
    _change(root, "unknown_key", "preprocess.json", colour="blue")
    _change(root, "other_mean", "preprocess.json", mean=[0.1, 0.2, 0.3])


def _change(root, name, file, **changes):
    shutil.copytree(root / "tiny", root / name)
    content = json.loads((root / name / file).read_text())
    (root / name / file).write_text(json.dumps({**content, **changes}))


def _make_runs(root):
    (root / "taken").mkdir()
    (root / "taken" / "diary.txt").write_text("mine")
    (root / "damaged_run").mkdir()
    (root / "damaged_run" / "config.json").write_text('{"format": 1, "data": {"path": ')
    (root / "damaged_run" / "environment.json").write_text("{}")
    (root / "future_run").mkdir()
    (root / "future_run" / "config.json").write_text('{"format": 2}')
    shutil.copytree(root / "tiny", root / "damaged_split" / "classifier")
    shutil.copytree(root / "damaged_run", root / "damaged_split", dirs_exist_ok=True)
