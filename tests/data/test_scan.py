"""What is planted is found, and nothing else, in a folder and in a table; the same data whole has nothing wrong."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from coatnet.data import digests, duplicates
from coatnet.data.class_names import similar_names
from coatnet.data.images import decode
from coatnet.data.scan import scan
from coatnet.data.sources import DataConfig, find_parts, open_data
from coatnet.errors import DataError, ResourceError


def drawn(seed, size=(64, 48)):
    """A picture of its own: smooth random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def clean():
    """(split, label, name) -> file: 80 different pictures, two classes, two splits."""
    places = [("train", "circle"), ("train", "cross"), ("test", "circle"), ("test", "cross")]
    return {
        (*places[index % 4], f"{index:02d}.png"): encoded(drawn(index, (40 + index % 7, 50))) for index in range(80)
    }


def planted():
    """Like `clean`, with one of everything that is wrong."""
    files = clean()
    whole = files["train", "cross", "01.png"]
    image = Image.open(io.BytesIO(whole))
    files |= {
        ("train", "circle", "copy.png"): files["train", "circle", "00.png"],
        ("train", "circle", "recompressed.png"): encoded(drawn(4, (44, 50)), compress_level=0),
        ("train", "circle", "jpeg.jpg"): encoded(drawn(8, (41, 50)), "JPEG", quality=80),
        ("train", "circle", "resized.png"): encoded(drawn(12, (45, 50)).resize((47, 52), Image.Resampling.BICUBIC)),
        ("test", "circle", "leak.png"): files["train", "circle", "16.png"],
        ("test", "cross", "leak.jpg"): encoded(drawn(21, (40, 50)), "JPEG", quality=75),
        ("train", "circle", "relabelled.png"): files["train", "cross", "25.png"],
        ("train", "cross", "empty.png"): b"",
        ("train", "cross", "truncated.png"): whole[: len(whole) // 2],
        ("test", "cross", "text.png"): b"no image",
        ("train", "Cross", "alone.png"): encoded(drawn(1001)),
        ("train", "large", "large.png"): encoded(drawn(1000, (300, 200))),
    }
    assert image.size == (41, 50)
    return files


PLANTED = {
    ("file", "train/circle/00.png", "train/circle/copy.png"),
    ("pixels", "train/circle/04.png", "train/circle/recompressed.png"),
    ("alike", "train/circle/08.png", "train/circle/jpeg.jpg"),
    ("alike", "train/circle/12.png", "train/circle/resized.png"),
    ("file", "test/circle/leak.png", "train/circle/16.png"),
    ("alike", "test/cross/leak.jpg", "train/cross/21.png"),
    ("file", "train/circle/relabelled.png", "train/cross/25.png"),
}


def as_folder(root, files):
    for (split, label, name), data in files.items():
        (root / split / label).mkdir(parents=True, exist_ok=True)
        (root / split / label / name).write_bytes(data)
    return root


def as_table(root, files):
    """Parquet, one file for each split; the name of a row is looked up in `row_names`."""
    root.mkdir()
    for split in {place[0] for place in files}:
        rows = [place for place in files if place[0] == split]
        table = pa.table({"image": [files[place] for place in rows], "label": [place[1] for place in rows]})
        pq.write_table(table, root / f"{split}.parquet")
    return root


def row_names(files):
    names = {}
    for split in ("train", "test"):
        rows = [place for place in files if place[0] == split]
        names |= {f"{split}.parquet:{row}": "/".join(place) for row, place in enumerate(rows)}
    return names


def looked(path):
    return scan(str(path), find_parts(DataConfig(path=str(path))))


def groups(found, names):
    return {(group.kind, *sorted(names.get(one.name, one.name) for one in group.samples)) for group in found.duplicates}


@pytest.fixture(params=["folder", "table"])
def layout(request):
    return {"folder": as_folder, "table": as_table}[request.param]


def test_exactly_what_is_planted_is_found(layout, tmp_path):
    files = planted()
    found = looked(layout(tmp_path / "data", files))
    names = row_names(files) if layout is as_table else {}
    assert groups(found, names) == PLANTED
    across = {group.samples[0].label for group in found.duplicates if group.across_splits}
    assert sum(group.across_splits for group in found.duplicates) == 2
    assert across == {"circle", "cross"}
    [relabelled] = [group for group in found.duplicates if group.labels_differ]
    assert {sample.label for sample in relabelled.samples} == {"circle", "cross"}
    assert {(names.get(one.name, one.name), one.code) for one in found.unreadable} == {
        ("train/cross/empty.png", "empty"),
        ("train/cross/truncated.png", "truncated"),
        ("test/cross/text.png", "unsupported_format"),
    }
    assert found.similar_labels == (("Cross", "cross"),)
    assert {(one.split, one.label) for one in found.empty} == {("test", "Cross"), ("test", "large")}
    assert found.counts == {
        "train": {"Cross": 1, "circle": 25, "cross": 22, "large": 1},
        "test": {"Cross": 0, "circle": 21, "cross": 22, "large": 0},
    }
    assert found.imbalance == 25
    assert found.images == len(files)
    assert (found.largest[0].width, found.largest[0].height) == (300, 200)
    told = " ".join(found.problems)
    for words in ("1 empty, 1 truncated", "across splits: 2 groups;", "different labels: 1 group."):
        assert words in told
    assert "'Cross', 'cross'" in told
    assert "No images in test for 'Cross', 'large'" in told


def test_in_clean_data_nothing_is_wrong(layout, tmp_path):
    found = looked(layout(tmp_path / "data", clean()))
    assert (found.problems, found.duplicates, found.unreadable) == ((), (), ())
    assert found.counts == {split: {"circle": 20, "cross": 20} for split in ("train", "test")}
    assert sum(one.images for one in found.shorter_sides) == sum(one.images for one in found.aspects) == 80
    assert [(one.low, one.high, one.images) for one in found.shorter_sides] == [(32, 64, 80)]


def test_empty_class_folders_and_names_in_another_unicode_form(tmp_path):
    root = as_folder(tmp_path / "data", clean())
    (root / "train" / "nothing").mkdir()
    shutil.copytree(root / "train" / "cross", root / "train" / "caf\u00e9")
    shutil.copytree(root / "train" / "circle", root / "train" / "cafe\u0301")
    found = looked(root)
    assert ("train", "nothing") in {(one.split, one.label) for one in found.empty}
    assert found.counts["train"]["caf\u00e9"] == 2 * found.counts["train"]["cross"]
    assert any("Two folders of 'caf\u00e9'" in note for note in found.notes)
    assert any("nothing" in note for note in found.notes)


def test_empty_class_of_a_table(tmp_path):
    table = pa.table({"image": [encoded(drawn(1)), encoded(drawn(2))], "label": [0, 2]})
    names = {b"label_names": b'["a", "b", " A "]'}
    pq.write_table(table.replace_schema_metadata(names), tmp_path / "x.parquet")
    found = looked(tmp_path / "x.parquet")
    assert [(one.split, one.label) for one in found.empty] == [("all", "b")]
    assert found.similar_labels == ((" A ", "a"),)


def test_duplicates_of_unsplit_data_are_a_problem(tmp_path):
    root = as_folder(tmp_path / "data", clean()) / "train"
    shutil.copy(root / "cross" / "01.png", root / "cross" / "again.png")
    [problem] = looked(root).problems
    assert problem.startswith("Duplicates in data without a split: 1 group;")


def test_a_class_that_cannot_be_split_is_a_problem(tmp_path):
    root = as_folder(tmp_path / "data", clean())
    shutil.copytree(root / "train" / "cross", root / "train" / "lonely")
    for name in sorted(path.name for path in (root / "train" / "lonely").iterdir())[1:]:
        (root / "train" / "lonely" / name).unlink()
    told = "Fewer than 3 images, too few to split into train, validation and test: 'lonely'."
    assert told in looked(root / "train").problems
    with pytest.raises(DataError, match="Too few images to split: 'lonely' has fewer than 3"):
        open_data(DataConfig(path=str(root / "train")))
    assert not any("Fewer" in problem for problem in looked(root).problems)  # it brings its own split


def test_images_that_use_little_of_their_range_are_told(tmp_path):
    dark = Image.fromarray(np.arange(12, dtype=np.uint8).repeat(40).reshape(20, 24))
    for label in "ab":
        for number in range(6):
            path = tmp_path / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            (dark if path.match("a/2.png") else drawn(10 * ord(label) + number)).save(path)
    found = looked(tmp_path)
    assert [one.name for one in found.narrow] == ["a/2.png"]
    assert "Images that use fewer than 32 of 256 levels: 1 of 12, 'a/2.png'." in found.problems


def test_nothing_readable(tmp_path):
    root = as_folder(tmp_path / "data", {("train", label, "a.png"): b"x" for label in ("a", "b")})
    found = looked(root)
    assert len(found.unreadable) == 2
    assert (found.sizes, found.shorter_sides, found.smallest, found.duplicates) == ((), (), (), ())


def test_similar_names():
    assert similar_names(["rose", "tulip", "Rose", "oak  tree", "Oak tree "]) == (
        ("Rose", "rose"),
        ("Oak tree ", "oak  tree"),
    )


# --- duplicates ------------------------------------------------------------------------------------------------------


def few_bits(seed):
    """Hashes near each other and far from each other."""
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 2**64, 20, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in generator.choice(64, generator.integers(0, 7), False)) for _ in range(60)]
    return base[generator.integers(0, 20, 60)] ^ np.array(flips, np.uint64)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10**6))
def test_every_pair_within_four_bits_is_proposed(seed):
    hashes = few_bits(seed)
    proposed = {
        (min(a, b), max(a, b))
        for left, right in duplicates._proposed(hashes, np.zeros(len(hashes), np.float32))
        for a, b in zip(left.tolist(), right.tolist(), strict=True)
    }
    ends = range(len(hashes))
    assert proposed == {(a, b) for a in ends for b in ends if a < b and (hashes[a] ^ hashes[b]).bit_count() <= 4}


@settings(deadline=None, derandomize=True, max_examples=30)
@given(arrays.arrays(np.uint8, (7, 4), elements=st.integers(0, 2)))
def test_same(rows):
    assert duplicates.same(rows).tolist() == [
        next(first for first in range(7) if (rows[first] == row).all()) for row in rows
    ]


def thumbnail(image):
    return np.asarray(image.resize((9, 8), Image.Resampling.BILINEAR))


def test_alike_groups_by_look():
    pictures = [drawn(1), drawn(2), drawn(1).resize((70, 52)), drawn(3), drawn(2, (66, 50))]
    assert duplicates.alike(np.stack([thumbnail(image) for image in pictures])).tolist() == [0, 1, 0, 3, 1]


def test_the_same_drawing_in_another_colour_is_another_picture():
    grey = np.asarray(drawn(5).convert("L")).astype(int)
    tinted = [np.stack(channels, axis=-1) for channels in ((grey, grey // 2, grey), (grey, grey, grey // 4))]
    pictures = np.stack([thumbnail(Image.fromarray(one.astype(np.uint8))) for one in tinted])
    assert duplicates.alike(pictures).tolist() == [0, 1]


def test_many_flat_pictures_are_not_compared():
    flat = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 8, 9, 3))
    assert duplicates.alike(flat).tolist() == list(range(200))


# --- the processes ----------------------------------------------------------------------------------------------------


def test_many_processes_see_what_one_sees(tmp_path, monkeypatch):
    source = find_parts(DataConfig(path=str(as_folder(tmp_path / "data", planted())))).parts["train"]
    told = []
    several, errors = digests.take_digests(source, told.append)
    monkeypatch.setattr(digests, "default_threads", lambda: 1)
    alone, same_errors = digests.take_digests(source)
    assert (several == alone).all()
    assert {index: str(error) for index, error in errors.items()} == {i: str(e) for i, e in same_errors.items()}
    assert sum(told) == len(source)
    image = decode(source.read(0))
    assert (several[0]["height"], several[0]["width"]) == image.shape[:2]


@pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")
def test_a_process_that_dies_is_told(tmp_path, monkeypatch):
    source = find_parts(DataConfig(path=str(as_folder(tmp_path / "data", clean())))).parts["train"]
    monkeypatch.setattr(digests, "default_threads", lambda: 2)
    monkeypatch.setattr(digests, "_fill", lambda row, data: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ResourceError, match="died"):
        digests.take_digests(source)


@pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")
def test_a_bug_in_a_process_is_told(tmp_path, monkeypatch):
    source = find_parts(DataConfig(path=str(as_folder(tmp_path / "data", clean())))).parts["train"]
    monkeypatch.setattr(digests, "default_threads", lambda: 2)
    monkeypatch.setattr(digests, "_fill", lambda row, data: 1 / 0)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        digests.take_digests(source)


SLOW_SCAN = """
import sys, time
from coatnet.data import digests
from coatnet.data.sources import DataConfig, find_parts, open_data
fill = digests._fill
def slowly(row, data):
    time.sleep(0.02)
    fill(row, data)
digests._fill = slowly
digests.default_threads = lambda: 2
digests.take_digests(find_parts(DataConfig(path=sys.argv[1])).parts["train"], lambda _: print("going", flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path, stop):
    files = {("train", "ab"[index % 2], f"{index}.png"): encoded(drawn(index)) for index in range(400)}
    root = as_folder(tmp_path / "data", files)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SCAN, str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"going\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.send_signal(stop)
    process.stdout.close()
    assert process.wait(20) != 0
    end = time.monotonic() + 20
    while time.monotonic() < end and any(Path(f"/proc/{child}").exists() for child in children):
        time.sleep(0.05)
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
