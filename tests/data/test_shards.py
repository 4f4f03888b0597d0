"""Tar shards: packed and read back, foreign ones, hostile ones, and exact resume over them."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cli.drawn import draw_classes
from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.images import ImageError, ImageLimits, decode
from coatnet.data.loader import TrainingStream
from coatnet.data.packing import PackConfig, pack
from coatnet.data.preprocess import Preprocess
from coatnet.data.shard_index import INDEX_NAME
from coatnet.data.shards import LocalCopies
from coatnet.data.sources import DataConfig, find_parts, open_data, open_unsplit
from coatnet.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("drawn") / "shapes", count=12)


def packed(data, folder, **values):
    return pack(DataConfig(path=str(data)), folder, PackConfig(**values))


def everything(source):
    return [
        (source.names[index], source.class_names[source.labels[index]], source.read(index))
        for index in range(len(source))
    ]


def image_bytes(level=0, size=(8, 8), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, 50, 90)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path, *members):
    """Members are names and bytes, or TarInfo objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def failure(path):
    with pytest.raises(DataError) as caught:
        open_unsplit(str(path))
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.exit_code == 3
    return caught.value.message


# --- packing ---------------------------------------------------------------------------------------------------------


def test_packed_is_the_same_data(drawn, tmp_path):
    told = packed(drawn, tmp_path / "shards")
    assert (told.num_images, told.num_shards, told.unreadable) == (36, 1, ())
    assert told.num_bytes == sum(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar"))
    assert everything(open_unsplit(str(tmp_path / "shards"))) == everything(open_unsplit(str(drawn)))
    ours, theirs = open_data(DataConfig(path=str(tmp_path / "shards"))), open_data(DataConfig(path=str(drawn)))
    assert ours.chosen == theirs.chosen
    assert everything(ours.val) == everything(theirs.val)


def test_packing_twice_gives_the_same_bytes(drawn, tmp_path):
    for name in ("one", "two"):
        packed(drawn, tmp_path / name, size=20)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert not list(tmp_path.glob("*.unfinished"))


def test_splits_and_several_shards(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(count):
                noise = Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8))
                noise.save(tmp_path / "data" / part / name / f"{index}.png")
    told = packed(tmp_path / "data", tmp_path / "shards", shard_size=1)
    names = sorted(path.name for path in (tmp_path / "shards").glob("*.tar"))
    assert told.num_shards == len(names) > 3
    assert {"train-000000.tar", "train-000001.tar", "val-000000.tar", "test-000000.tar"} <= set(names)
    assert all(path.stat().st_size <= 1_010_240 for path in (tmp_path / "shards").glob("*.tar"))
    ours, theirs = (open_data(DataConfig(path=str(tmp_path / name))) for name in ("shards", "data"))
    for part in ("train", "val", "test"):
        assert everything(getattr(ours, part)) == everything(getattr(theirs, part))


def test_resized_images(tmp_path):
    for name, size in (("a", (40, 80)), ("b", (10, 12))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "data" / name / f"{index}.png").write_bytes(image_bytes(index, size))
    packed(tmp_path / "data", tmp_path / "shards", size=20)
    source = open_unsplit(str(tmp_path / "shards"))
    assert decode(source.read(0)).shape == (40, 20, 3)
    assert source.read(0)[:2] == b"\xff\xd8"
    assert source.read(3) == image_bytes(0, (10, 12))  # not larger: every byte as it was


def test_what_cannot_be_read_is_left_out_and_named(drawn, tmp_path):
    draw_classes(tmp_path / "data")
    (tmp_path / "data" / "cross" / "2.png").write_bytes(b"no image")
    (tmp_path / "data" / "cross" / "3.png").write_bytes(b"")
    told = packed(tmp_path / "data", tmp_path / "shards")
    assert told.num_images == 16
    assert [line.split(":")[0] for line in told.unreadable] == ["cross/2.png", "cross/3.png"]
    assert len(open_unsplit(str(tmp_path / "shards"))) == 16


def test_a_folder_that_is_taken_is_refused(drawn, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="not empty"):
        packed(drawn, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="not on this machine"):
        packed(drawn, tmp_path / "s3:/bucket")
    (tmp_path / "new.unfinished").mkdir()
    with pytest.raises(ConfigError, match="in the way"):
        packed(drawn, tmp_path / "new")
    with pytest.raises(DataError):
        packed(tmp_path / "nowhere", tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


def test_others_read_our_shards(drawn, tmp_path):
    """By the convention alone, as any of its readers does: members in pairs of one key, the label a number."""
    packed(drawn, tmp_path / "shards")
    names = (tmp_path / "shards" / "labels.txt").read_text().splitlines()
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        for image, label in zip(members[::2], members[1::2], strict=True):
            assert image.name.split(".") == [label.name.split(".")[0], "png"]
            assert label.name.endswith(".cls")
        assert names[int(tar.extractfile(members[-1]).read())] == "square"
    (tmp_path / "shards" / INDEX_NAME).unlink()
    (foreign,) = find_parts(DataConfig(path=str(tmp_path / "shards"))).parts.values()
    assert [row[1:] for row in everything(foreign)] == [row[1:] for row in everything(open_unsplit(str(drawn)))]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder_and_resume_exactly(drawn, tmp_path, workers):
    packed(drawn, tmp_path / "shards")

    def batches(path, start):
        source = open_data(DataConfig(path=str(path))).train
        values = dict(seed=3, batch_size=4, workers=workers, memory=0)
        stream = TrainingStream(source, Preprocess(image_size=(32, 32)), AugmentationConfig(), **values)
        return [(batch.images.numpy().tobytes(), batch.labels.tolist()) for batch in stream.batches(start, 12)]

    whole = batches(tmp_path / "shards", 0)
    assert whole == batches(drawn, 0)
    assert batches(tmp_path / "shards", 7) == whole[7:]


# --- foreign shards --------------------------------------------------------------------------------------------------


def test_labels_as_number_json_name_and_folder(tmp_path):
    for name, members in {
        "cls": [("x.jpg", image_bytes(1)), ("x.cls", b"1\n"), ("y.jpg", image_bytes(2)), ("y.cls", b"0")],
        "names": [("x.cls", b"dog"), ("x.jpg", image_bytes(1)), ("y.png", image_bytes(2)), ("y.cls", b"cat")],
        "json": [
            ("x.JPG", image_bytes(1)),
            ("x.json", b'{"label": "dog", "width": 8}'),
            ("y.jpg", image_bytes(2)),
            ("y.json", b'{"cls": "cat"}'),
        ],
        "folder": [("./dog/x.jpg", image_bytes(1)), ("./cat/x.jpg", image_bytes(2))],
    }.items():
        write_tar(tmp_path / name / "a.tar", *members)
    (tmp_path / "cls" / "labels.txt").write_text("cat\ndog\n")
    for name in ("cls", "names", "json", "folder"):
        source = open_unsplit(str(tmp_path / name))
        assert [row[1:] for row in everything(source)] == [("dog", image_bytes(1)), ("cat", image_bytes(2))], name
    assert [row[1] for row in everything(open_unsplit(str(tmp_path / "folder" / "a.tar")))] == ["dog", "cat"]


def test_splits_of_foreign_shards(tmp_path):
    sample = [("x.jpg", image_bytes(1)), ("x.cls", b"1"), ("y.jpg", image_bytes(2)), ("y.cls", b"0")]
    write_tar(tmp_path / "folders" / "train" / "0.tar", *sample)
    write_tar(tmp_path / "folders" / "validation" / "0.tar", *sample)
    write_tar(tmp_path / "names" / "set-train-000.tar", *sample)
    write_tar(tmp_path / "names" / "set-train-001.tar", *sample)
    write_tar(tmp_path / "names" / "set-val-000.tar", *sample)
    assert set(find_parts(DataConfig(path=str(tmp_path / "folders"))).parts) == {"train", "val"}
    parts = find_parts(DataConfig(path=str(tmp_path / "names"))).parts
    assert {part: len(source) for part, source in parts.items()} == {"train": 4, "val": 2}
    assert parts["train"].names[2] == "set-train-001.tar/x"


def test_the_first_look_is_remembered_and_a_change_is_seen(tmp_path):
    sample = [("x.jpg", image_bytes(1)), ("x.cls", b"1"), ("y.jpg", image_bytes(2)), ("y.cls", b"0")]
    write_tar(tmp_path / "a.tar", *sample)
    config = DataConfig(path=str(tmp_path))
    assert "looked through" in find_parts(config).notes[0]
    again = find_parts(config)
    assert again.notes == ()
    assert len(again.parts["all"]) == 2
    write_tar(tmp_path / "a.tar", *sample, ("z.jpg", image_bytes(3)), ("z.cls", b"0"))
    assert len(find_parts(config).parts["all"]) == 3
    write_tar(tmp_path / "b.tar", *sample)
    assert len(find_parts(config).parts["all"]) == 5


def test_without_a_place_to_remember_it_works(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_tar(tmp_path / "shards" / "a.tar", ("x.jpg", image_bytes(1)), ("x.cls", b"1"))
    for _ in range(2):
        assert len(open_unsplit(str(tmp_path / "shards"))) == 1


def test_samples_without_images_are_noted(tmp_path):
    write_tar(tmp_path / "a.tar", ("x.jpg", image_bytes(1)), ("x.cls", b"1"), ("about.txt", b"hello"))
    assert "1 samples of the shards have no image" in find_parts(DataConfig(path=str(tmp_path))).notes[0]
    write_tar(tmp_path / "none" / "a.tar", ("about.txt", b"hello"))
    assert "hold no images" in failure(tmp_path / "none")
    write_tar(tmp_path / "empty" / "a.tar")
    assert "hold no images" in failure(tmp_path / "empty")


def test_an_archive_beside_its_class_folders_is_no_shard(drawn, tmp_path):
    draw_classes(tmp_path / "shapes")
    write_tar(tmp_path / "shapes" / "shapes.tar", ("x.jpg", image_bytes(1)), ("x.cls", b"1"))
    assert len(open_unsplit(str(tmp_path / "shapes"))) == 18


def test_keys_with_a_dot(tmp_path):
    """Names that part at the last dot, and those of the convention, where x.seg.png belongs to x."""
    members = [
        (f"width_{index / 10:.1f}mm.{suffix}", data)
        for index in range(14)
        for suffix, data in (("png", image_bytes(index)), ("cls", str(index % 2).encode()))
    ]
    write_tar(tmp_path / "dotted" / "a.tar", *members)
    source = open_unsplit(str(tmp_path / "dotted"))
    assert len(source) == 14
    assert source.names[11] == "a.tar/width_1.1mm"
    assert source.labels.tolist() == [0, 1] * 7
    masks = [("x.jpg", image_bytes(1)), ("x.seg.png", image_bytes(2)), ("x.cls", b"1")]
    write_tar(tmp_path / "masks" / "a.tar", *masks)
    assert everything(open_unsplit(str(tmp_path / "masks"))) == [("a.tar/x", "1", image_bytes(1))]
    write_tar(tmp_path / "folders" / "a.tar", ("cat/1.5.png", image_bytes(1)), ("dog/1.6.png", image_bytes(2)))
    assert [row[1] for row in everything(open_unsplit(str(tmp_path / "folders")))] == ["cat", "dog"]


# --- hostile and damaged shards --------------------------------------------------------------------------------------


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [("good.jpg", image_bytes(1)), ("good.cls", b"1")]
HOSTILE = {
    "climbing": ([("../../x.jpg", image_bytes()), ("../../x.cls", b"1")], "'../../x.jpg'", "out of the folder"),
    "inside": ([("a/../../x.jpg", image_bytes())], "'a/../../x.jpg'", "out of the folder"),
    "windows": ([("..\\x.jpg", image_bytes())], "x.jpg'", "out of the folder"),
    "absolute": ([("/etc/x.jpg", image_bytes())], "'/etc/x.jpg'", "out of the folder"),
    "drive": ([("C:/x.jpg", image_bytes())], "'C:/x.jpg'", "out of the folder"),
    "symlink": ([link("x.jpg", tarfile.SYMTYPE, "/etc/passwd")], "'x.jpg'", "a link, to '/etc/passwd'"),
    "hardlink": ([link("x.jpg", tarfile.LNKTYPE, "good.jpg")], "'x.jpg'", "a link, to 'good.jpg'"),
    "device": ([link("x.jpg", tarfile.CHRTYPE, "")], "'x.jpg'", "neither a plain file"),
    "pipe": ([link("x.jpg", tarfile.FIFOTYPE, "")], "'x.jpg'", "neither a plain file"),
    "twice": ([("x.jpg", image_bytes()), ("x.jpg", image_bytes()), ("x.cls", b"1")], "'x.jpg'", "there twice"),
    "apart": ([("good2.jpg", image_bytes()), ("good2.cls", b"1"), *GOOD], "'good.jpg'", "there before"),
    "two images": ([("x.jpg", image_bytes()), ("x.png", image_bytes()), ("x.cls", b"1")], "'x.png'", "two images"),
    "no label": ([("x.jpg", image_bytes())], "'x.jpg'", "no label"),
    "empty label": ([("x.jpg", image_bytes()), ("x.cls", b" ")], "'x.cls'", "a label is"),
    "list label": ([("x.jpg", image_bytes()), ("x.json", b'{"label": [1]}')], "'x.json'", "a label is"),
    "binary label": ([("x.jpg", image_bytes()), ("x.cls", b"\xff\xfe")], "'x.cls'", "no label can be read"),
    "deep label": ([("x.jpg", image_bytes()), ("x.json", b"[" * 100_000)], "'x.json'", "no label can be read"),
    "long label": ([("x.jpg", image_bytes()), ("x.cls", b"1" * 2_000_000)], "'x.cls'", "2000000 bytes"),
    "digits": ([("x.jpg", image_bytes()), ("x.cls", b"1" * 5000)], "'x.cls'", "a label is"),
    "digits in json": (
        [("x.jpg", image_bytes()), ("x.json", b'{"label": ' + b"1" * 5000 + b"}")],
        "'x.json'",
        "a label",
    ),
    "long number": ([("x.jpg", image_bytes()), ("x.cls", b"1" * 30)], "'x'", "a label of 30 digits"),
    "kinds": ([("x.jpg", image_bytes()), ("x.cls", b"cat")], "", "numbers here, text there"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_shards(tmp_path, name):
    members, member, problem = HOSTILE[name]
    write_tar(tmp_path / "in" / "here" / "bad-000.tar", *GOOD, *members)
    before = snapshot(tmp_path)
    message = failure(tmp_path / "in" / "here")
    assert problem in message
    assert member in message
    assert "'bad-000.tar'" in message or name in ("kinds", "long number")
    assert snapshot(tmp_path) == before


def snapshot(folder):
    return {path: path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*")}


@pytest.mark.parametrize("size", [10**9, 8 * 2**30, 2**60, -1, -512])
def test_declared_sizes(tmp_path, size):
    """Larger than the tar file, and negative (base-256), which sends a careless reader round in a circle."""
    path = write_tar(tmp_path / "a.tar", *GOOD, ("x.jpg", image_bytes()), ("x.cls", b"1"))
    data = bytearray(path.read_bytes())
    at = data.index(b"x.jpg\0")
    field = (
        b"%011o\0" % size if 0 <= size < 8**11 else (size + (256**12 if size < 0 else 0x80 << 88)).to_bytes(12, "big")
    )
    data[at + 124 : at + 136] = field
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    message = failure(tmp_path)
    assert "'a.tar'" in message
    assert "'x.jpg'" in message
    assert str(size) in message


def test_a_huge_extended_header_is_not_read(tmp_path):
    info = tarfile.TarInfo("x.jpg")
    info.pax_headers = {"comment": "x" * 3_000_000}
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    assert "a header of" in failure(tmp_path)


def test_truncated_shards(tmp_path):
    whole = write_tar(tmp_path / "whole" / "a.tar", *GOOD, ("x.jpg", image_bytes()), ("x.cls", b"1")).read_bytes()
    used = len(whole.rstrip(b"\0"))
    for length in (0, 100, 512, 600, 1024, 1300, 2048, 2100, used, 512 * -(-used // 512)):
        (tmp_path / "cut").mkdir(exist_ok=True)
        (tmp_path / "cut" / "a.tar").write_bytes(whole[:length])
        assert "'a.tar'" in failure(tmp_path / "cut"), length


def test_random_damage_is_data_error_or_harmless(tmp_path):
    path = write_tar(tmp_path / "a.tar", *GOOD, ("x.jpg", image_bytes()), ("x.cls", b"1"))
    whole = path.read_bytes()[:6144]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 5):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            open_unsplit(str(tmp_path))
        except DataError:
            refused += 1
    assert refused > 75


def test_shards_that_do_not_match_their_index(drawn, tmp_path):
    folder = tmp_path / "shards"
    packed(drawn, folder)
    shard = folder / "shard-000000.tar"
    source = open_unsplit(str(folder))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:20_000])
    with pytest.raises(ImageError, match="ends within it"):
        open_unsplit_reading_last(source)
    assert "its index says" in failure(folder)
    shard.unlink()
    write_tar(folder / "other.tar", *GOOD)
    assert "'shard-000000.tar' is missing" in failure(folder)
    shard.write_bytes(whole)
    assert "'other.tar' is not in index.parquet" in find_parts(DataConfig(path=str(folder))).notes[0]
    (folder / INDEX_NAME).write_bytes((folder / INDEX_NAME).read_bytes()[:-30])
    assert "is no index of shards" in failure(folder)


def open_unsplit_reading_last(source):
    source.read(len(source) - 1)


def test_an_index_that_points_elsewhere_is_refused(drawn, tmp_path):
    import pyarrow.parquet as pq

    packed(drawn, tmp_path / "shards")
    path = tmp_path / "shards" / INDEX_NAME
    table = pq.read_table(path)
    for column, value in (
        ("offset", -1),
        ("offset", 10**12),
        ("length", -5),
        ("shard", 7),
        ("label", 3),
        ("label", -1),
    ):
        place = table.schema.get_field_index(column)
        values = table[column].to_pylist()
        values[5] = value
        pq.write_table(table.set_column(place, column, [values]), path)
        assert "is no index of shards" in failure(tmp_path / "shards")
    header = json.loads(table.schema.metadata[b"coatnet"])
    header["shards"] = {"../outside.tar": 10**9}
    pq.write_table(table.replace_schema_metadata({b"coatnet": json.dumps(header)}), path)
    assert "'../outside.tar' is missing" in failure(tmp_path / "shards")


def test_limits_hold_for_members(drawn, tmp_path):
    packed(drawn, tmp_path / "shards")
    with pytest.raises(ImageError, match="too_large_bytes"):
        open_unsplit(str(tmp_path / "shards")).read(0, ImageLimits(max_bytes=10))


# --- copies of what is far away --------------------------------------------------------------------------------------


def test_local_copies(tmp_path):
    images = [bytes([number]) * (10 + number) for number in range(6)]
    lengths = np.array([len(image) for image in images])
    copies = LocalCopies(tmp_path / "copies", lengths, most=sum(lengths[:4]))
    assert [copies.get(row) for row in range(6)] == [None] * 6
    for row in (5, 3, 0):
        copies.put(row, images[row])
    again = LocalCopies(tmp_path / "copies", lengths, most=sum(lengths[:4]))
    assert [again.get(row) for row in range(6)] == [images[0], None, None, images[3], None, None]
    assert (tmp_path / "copies" / "images").stat().st_size <= sum(lengths[:4])
    with (tmp_path / "copies" / "images").open("r+b") as file:
        file.write(b"damage")
    assert again.get(0) is None
    assert again.get(3) == images[3]
