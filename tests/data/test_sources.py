"""Every layout is read, the splits are what they claim to be, and what is wrong is said in one line."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from coatnet.data.images import ImageError, decode
from coatnet.data.sources import DataConfig, SplitRecord, open_data, open_unsplit
from coatnet.errors import DataError


def image_bytes(level=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level % 256, level // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:03d}.png").write_bytes(image_bytes(start + index))


def class_folder(root, counts):
    for name, count in counts.items():
        write_images(root / name, count)
    return root


def opened(path, **values):
    return open_data(DataConfig(path=str(path), **values))


def failure(path, **values):
    with pytest.raises(DataError) as caught:
        opened(path, **values)
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.exit_code == 3
    return caught.value


def parquet(path, images, labels, metadata=None, columns=("image", "label")):
    table = pa.table({columns[0]: images, columns[1]: labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=7)
    return path


def level(source, index):
    red, green, _ = decode(source.read(index))[0, 0].tolist()
    return red + 256 * green


def names(*sources):
    return [set(source.names) for source in sources]


# --- the split -------------------------------------------------------------------------------------------------------


def test_digits():
    splits = opened("digits")
    assert splits.train.class_names == tuple("0123456789")
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert abs(len(splits.test) - 0.2 * 1797) <= 10
    assert decode(splits.val.read(0)).shape == (8, 8, 3)
    again = opened("digits")
    assert (again.chosen, list(again.train.names)) == (splits.chosen, list(splits.train.names))
    assert opened("digits", split_seed=1).chosen.val != splits.chosen.val


def test_split_is_stratified_disjoint_and_complete(tmp_path):
    counts = {"a": 100, "b": 40, "c": 3}
    splits = opened(class_folder(tmp_path, counts), val_fraction=0.2, test_fraction=0.1)
    train, val, test = names(splits.train, splits.val, splits.test)
    assert len(train | val | test) == len(splits.train) + len(splits.val) + len(splits.test) == 143
    assert np.bincount(splits.val.labels).tolist() == [20, 8, 1]
    assert np.bincount(splits.test.labels).tolist() == [10, 4, 1]
    for source in (splits.train, splits.val, splits.test):
        for index, name in enumerate(source.names):
            assert source.class_names[source.labels[index]] == name.split("/")[0]
            assert level(source, index) == int(name[-7:-4])
    assert set(splits.chosen.val) == val
    assert set(splits.chosen.test) == test


def test_split_does_not_depend_on_the_order_or_place_of_files(tmp_path):
    forward = class_folder(tmp_path / "forward", {"a": 30, "b": 30})
    (tmp_path / "backward").mkdir()
    for path in sorted(forward.rglob("*.png"), reverse=True):
        target = tmp_path / "backward" / path.relative_to(forward)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    assert opened(forward).chosen == opened(tmp_path / "backward").chosen


def test_a_record_is_applied_exactly(tmp_path):
    root = class_folder(tmp_path, {"a": 30, "b": 30})
    first = opened(root)
    record = SplitRecord.model_validate_json(first.chosen.model_dump_json())
    config = DataConfig(path=str(root), val_fraction=0.5, split_seed=9)
    again = open_data(config, record)
    assert again.chosen == record
    assert names(again.train, again.val, again.test) == names(first.train, first.val, first.test)
    assert not again.notes

    (root / "a" / "new.png").write_bytes(image_bytes())
    more = open_data(config, record)
    assert names(more.val, more.test) == names(first.val, first.test)
    assert set(more.train.names) - set(first.train.names) == {"a/new.png"}
    assert "60 then, 61 now" in more.notes[0]

    (root / first.val.names[0]).unlink()
    with pytest.raises(DataError, match=r"no longer matches the stored split: '[ab]/\d+.png' of 12 validation"):
        open_data(config, record)


def test_a_record_and_a_split_that_came_later(tmp_path):
    root = class_folder(tmp_path / "train", {"a": 10, "b": 10}).parent
    record = opened(root).chosen
    class_folder(tmp_path / "test", {"a": 2, "b": 2})
    with pytest.raises(DataError, match="without a test split"):
        open_data(DataConfig(path=str(root)), record)
    class_folder(tmp_path / "val", {"a": 2, "b": 2})
    with pytest.raises(DataError, match="without a val split"):
        open_data(DataConfig(path=str(root)), record)


@pytest.mark.parametrize("val_name", ["val", "valid", "validation", "VAL"])
def test_given_splits_are_taken_as_given(tmp_path, val_name):
    for part, count in (("train", 6), (val_name, 3), ("test", 2)):
        class_folder(tmp_path / part, {"a": count, "b": count})
    splits = opened(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 6, 4)
    assert splits.chosen is None


def test_train_and_test_given(tmp_path):
    class_folder(tmp_path / "train", {"a": 20, "b": 20})
    class_folder(tmp_path / "test", {"a": 5, "b": 1})
    splits = opened(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 6)
    assert all(name.startswith("train/") for name in splits.val.names)
    assert splits.chosen.test == ()


def test_train_and_val_given(tmp_path):
    class_folder(tmp_path / "train", {"a": 20, "b": 20})
    class_folder(tmp_path / "val", {"a": 5})
    splits = opened(tmp_path)
    assert splits.test is None
    assert splits.chosen is None
    assert splits.val.class_names == ("a", "b")


def test_only_train_given_is_split_twice(tmp_path):
    class_folder(tmp_path / "train", {"a": 20, "b": 20})
    splits = opened(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (32, 4, 4)
    assert opened(tmp_path, test_fraction=0).test is None


def test_fractions_must_leave_something():
    with pytest.raises(ValidationError, match="leave nothing for training"):
        DataConfig(path="x", val_fraction=0.5, test_fraction=0.5)
    assert all(field.description for field in DataConfig.model_fields.values())


# --- odd folders -----------------------------------------------------------------------------------------------------


def test_shares_of_training_are_nested_and_stratified():
    whole = open_data(DataConfig(path="digits"))
    half, tenth = (open_data(DataConfig(path="digits", train_fraction=share)) for share in (0.5, 0.1))
    assert set(tenth.train.names) < set(half.train.names) < set(whole.train.names)
    assert (half.val.names, half.test.names) == (whole.val.names, whole.test.names)
    for label in range(10):
        assert (half.train.labels == label).sum() == round((whole.train.labels == label).sum() / 2)
    other = open_data(DataConfig(path="digits", train_fraction=0.1, split_seed=1))
    assert set(other.train.names) != set(tenth.train.names)
    least = open_data(DataConfig(path="digits", train_fraction=1e-4))
    assert sorted(least.train.labels) == list(range(10))
    assert least.notes[-1] == f"10 of {len(whole.train)} training images are used."


def test_hidden_other_and_nested_files(tmp_path):
    class_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / ".hidden.png").write_bytes(image_bytes())
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".git").mkdir()
    write_images(tmp_path / "a" / "deeper", 2)
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "a", tmp_path / "a" / "deeper" / "loop")
    source = open_unsplit(str(tmp_path))
    in_a = [name for name in source.names if name.startswith("a/") and "loop" not in name]
    assert len(in_a) == 7
    assert source.class_names == ("a", "b")


def test_odd_names(tmp_path):
    class_folder(tmp_path, {"a": 4, "b": 4})
    raw = os.fsencode(tmp_path / "a") + b"/\xff\xfe\n.png"
    with open(raw, "wb") as file:
        file.write(image_bytes(7))
    (tmp_path / "b" / ("x" * 251 + ".PNG")).write_bytes(image_bytes(9))
    source = open_unsplit(str(tmp_path))
    odd = source.names.index("a/\\xff\\xfe\\n.png")
    assert level(source, odd) == 7
    assert level(source, source.names.index("b/" + "x" * 251 + ".PNG")) == 9
    json.dumps(list(source.names), ensure_ascii=False).encode()


def test_an_empty_class_is_noted(tmp_path):
    class_folder(tmp_path, {"a": 5, "b": 5, "c": 0})
    splits = opened(tmp_path)
    assert splits.train.class_names == ("a", "b")
    assert any("c' holds no images" in note for note in splits.notes)


def test_folder_errors(tmp_path):
    assert "does not exist" in failure(tmp_path / "nowhere").message
    class_folder(tmp_path / "flowers", {"rose": 5})
    error = failure(tmp_path / "flower")
    assert "'flowers'" in error.hint
    assert "digits works" in error.hint
    assert "'digits'" in failure("digit").hint
    assert "Only one class in" in failure(tmp_path / "flowers").message
    assert "5 images lie in it without a class folder" in failure(tmp_path / "flowers" / "rose").message
    (tmp_path / "bare").mkdir()
    error = failure(tmp_path / "bare")
    assert "No labelled images" in error.message
    assert "root/class/image.jpg" in error.hint
    (tmp_path / "a.txt").touch()
    assert "neither .parquet nor .csv" in failure(tmp_path / "a.txt").message


def test_split_errors(tmp_path):
    class_folder(tmp_path / "unknown" / "train", {"a": 5, "b": 5})
    class_folder(tmp_path / "unknown" / "val", {"a": 5, "z": 5})
    assert "Class 'z' of val is not in train, which has 'a', 'b'" in failure(tmp_path / "unknown").message
    class_folder(tmp_path / "twice" / "train", {"a": 5, "b": 5})
    class_folder(tmp_path / "twice" / "val", {"a": 5})
    class_folder(tmp_path / "twice" / "valid", {"a": 5})
    assert "Two folders for the split 'val'" in failure(tmp_path / "twice").message
    class_folder(tmp_path / "no_train" / "val", {"a": 5, "b": 5})
    class_folder(tmp_path / "no_train" / "test", {"a": 5, "b": 5})
    assert "No train split" in failure(tmp_path / "no_train").message
    class_folder(tmp_path / "few", {"a": 5, "b": 2})
    assert "'b' has fewer than 3 images" in failure(tmp_path / "few").message
    assert len(opened(tmp_path / "few", test_fraction=0).val) == 2


def test_a_missing_image_is_an_image_error(tmp_path):
    source = open_unsplit(str(class_folder(tmp_path, {"a": 2, "b": 2})))
    (tmp_path / "a" / "000.png").unlink()
    with pytest.raises(ImageError, match=r"a/000\.png: unreadable"):
        source.read(0)


# --- views -----------------------------------------------------------------------------------------------------------


def test_subset_of_a_subset_and_relabelled(tmp_path):
    source = open_unsplit(str(class_folder(tmp_path, {"a": 4, "b": 4, "c": 4})))
    part = source.subset([9, 1, 6]).subset([2, 0])
    assert list(part.names) == ["b/002.png", "c/001.png"]
    assert [level(part, index) for index in range(2)] == [2, 1]
    renamed = part.relabelled(("c", "x", "b"))
    assert renamed.labels.tolist() == [2, 0]
    assert renamed.class_names == ("c", "x", "b")
    assert [level(renamed, index) for index in range(2)] == [2, 1]
    with pytest.raises(DataError, match="'b' is not among the 2 known classes: 'c', 'x'"):
        part.relabelled(("c", "x"))


def test_unsplit_is_everything(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        class_folder(tmp_path / part, {"a": count, "b": count})
    source = open_unsplit(str(tmp_path))
    assert len(source) == 22
    assert [level(source, index) for index in range(12, 15)] == [0, 1, 2]
    assert len(open_unsplit("digits")) == 1797


# --- tables ----------------------------------------------------------------------------------------------------------


def test_parquet_file_with_label_names(tmp_path):
    path = parquet(
        tmp_path / "a.parquet",
        [image_bytes(index) for index in range(40)],
        [index % 2 for index in range(40)],
        {"label_names": json.dumps(["cat", "dog"])},
    )
    splits = opened(path)
    assert splits.train.class_names == ("cat", "dog")
    for source in (splits.train, splits.val, splits.test):
        for index, name in enumerate(source.names):
            row = int(name.split(":")[1])
            assert (level(source, index), source.labels[index]) == (row, row % 2)


def test_hugging_face_shards_with_structs(tmp_path):
    features = {"image": {"_type": "Image"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for shard in range(2):
        images = [{"bytes": image_bytes(10 * shard + index), "path": None} for index in range(10)]
        parquet(tmp_path / f"data/train-0000{shard}-of-00002.parquet", images, [0, 1] * 5, metadata)
    (tmp_path / "data" / "x.png").write_bytes(image_bytes(99))
    images = [
        {"bytes": None, "path": "x.png"},
        {"bytes": image_bytes(5), "path": "y.png"},
        {"bytes": None, "path": None},
    ]
    parquet(tmp_path / "data/validation-00000-of-00001.parquet", images, [1, 0, 0], metadata)
    parquet(tmp_path / "data/test-00000-of-00001-0123456789abcdef.parquet", images, [-1, -1, -1], metadata)
    splits = opened(tmp_path)
    assert splits.train.class_names == ("no", "yes")
    assert [level(splits.train, index) for index in range(20)] == list(range(20))
    assert [level(splits.val, index) for index in range(2)] == [99, 5]
    with pytest.raises(ImageError, match="empty"):
        splits.val.read(2)
    assert splits.test is None
    assert "no labels" in splits.notes[0]


def test_parquet_labels(tmp_path):
    images = [image_bytes(index) for index in range(12)]
    source = open_unsplit(str(parquet(tmp_path / "text.parquet", images, ["b", "a", "c"] * 4)))
    assert (source.class_names, source.labels[:3].tolist()) == (("a", "b", "c"), [1, 0, 2])
    source = open_unsplit(str(parquet(tmp_path / "int.parquet", images, [10, 9, 100] * 4)))
    assert (source.class_names, source.labels[:3].tolist()) == (("9", "10", "100"), [1, 0, 2])
    categories = pa.array(["b", "a", "c"] * 4).dictionary_encode()
    source = open_unsplit(str(parquet(tmp_path / "categories.parquet", images, categories)))
    assert (source.class_names, source.labels[:3].tolist()) == (("a", "b", "c"), [1, 0, 2])
    (tmp_path / "labels.txt").write_text("zero\none\ntwo\n")
    source = open_unsplit(str(parquet(tmp_path / "named.parquet", images, [2, 0, 1] * 4)))
    assert (source.class_names, source.labels[:3].tolist()) == (("zero", "one", "two"), [2, 0, 1])
    error = failure(parquet(tmp_path / "range.parquet", images, [0, 1, 3] * 4))
    assert "Label 3 is out of range: there are 3 class names, for labels 0 to 2" in error.message


def test_parquet_errors(tmp_path):
    images = [image_bytes(index) for index in range(6)]
    path = parquet(tmp_path / "a" / "x.parquet", images, [0, 1] * 3, columns=("picture", "kind"))
    error = failure(path)
    assert "no column 'image'; it has 'picture', 'kind'" in error.message
    assert "image_column" in error.hint
    assert opened(path, image_column="picture", label_column="kind").train.class_names == ("0", "1")
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read as Parquet" in failure(damaged).message
    assert (
        "are int64; expected the bytes" in failure(parquet(tmp_path / "b" / "x.parquet", [1] * 6, [0, 1] * 3)).message
    )
    assert "1 rows" in failure(parquet(tmp_path / "c" / "x.parquet", images, [0, 1, 0, 1, 0, None])).message
    assert "expected integers or strings" in failure(parquet(tmp_path / "d" / "x.parquet", images, [0.5] * 6)).message
    parquet(tmp_path / "e" / "train.parquet", images, ["a", "b"] * 3)
    parquet(tmp_path / "e" / "val.parquet", images, ["a", "z"] * 3)
    assert "Class 'z' of val is not known; known are 'a', 'b'" in failure(tmp_path / "e").message
    parquet(tmp_path / "f" / "train-00000-of-00003.parquet", images, [0, 1] * 3)
    parquet(tmp_path / "f" / "train-00001-of-00003.parquet", images, [0, 1] * 3)
    assert "2 shards of 3" in failure(tmp_path / "f").message


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_csv(tmp_path):
    write_images(tmp_path / "pictures", 30)
    rows = [[f"pictures/{index:03d}.png", "ab"[index % 2]] for index in range(30)]
    path = write_csv(tmp_path / "a.csv", [["path", "label"], *rows])
    backward = write_csv(tmp_path / "b.csv", [["path", "label"], *reversed(rows)])
    splits = opened(path)
    assert splits.chosen == opened(backward).chosen
    assert all(level(splits.val, index) == int(name[-7:-4]) for index, name in enumerate(splits.val.names))
    with_split = [[*row, "train" if index < 20 else "valid"] for index, row in enumerate(rows)]
    splits = opened(write_csv(tmp_path / "c.csv", [["path", "label", "split"], *with_split]))
    assert (len(splits.train), len(splits.val), splits.test) == (20, 10, None)
    named = write_csv(tmp_path / "d.csv", [["file", "kind"], *rows])
    assert len(open_unsplit(str(named), DataConfig(path="", image_column="file", label_column="kind"))) == 30
    splits = opened(write_csv(tmp_path / "e.csv", [["path", "label"], *rows, rows[0]]))
    assert "1 rows of e.csv repeat an image" in splits.notes[0]


def test_csv_errors(tmp_path):
    write_images(tmp_path, 4)
    rows = [[f"{index:03d}.png", "ab"[index % 2]] for index in range(4)]
    path = tmp_path / "a.csv"
    wide = [["path", "kind", "age"], *[[*row, "3"] for row in rows]]
    assert "no column 'label'; it has 'path', 'kind', 'age'" in failure(write_csv(path, wide)).message
    assert "no rows" in failure(write_csv(path, [["path", "label"]])).message
    assert "line 6: an empty cell" in failure(write_csv(path, [["path", "label"], *rows, ["x.png", ""]])).message
    assert (
        "line 6: '000.png' has two labels"
        in failure(write_csv(path, [["path", "label"], *rows, ["000.png", "b"]])).message
    )
    missing = [["path", "label"], ["x/1.png", "a"], ["x/2.png", "b"]]
    assert "None of the first 2 files" in failure(write_csv(path, missing)).message
    split = [["path", "label", "split"], *[[*row, "later"] for row in rows]]
    assert "split 'later' is not train, val or test" in failure(write_csv(path, split)).message
    path.write_bytes(b"path,label\n\xff\xfe.png,a\n")
    assert "cannot be read as CSV" in failure(path).message
