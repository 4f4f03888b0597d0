"""Data as users have it is read as they mean it, or refused in one line; what is not used is said."""

import io
import os
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coatnet.cli.answers import find_images
from coatnet.data.images import ImageError, ImageLimits
from coatnet.data.listing import list_images
from coatnet.data.outside import is_inside, outside
from coatnet.data.parquet_reading import read_columns
from coatnet.data.scan import scan
from coatnet.data.sources import DataConfig, find_parts, open_data
from coatnet.data.split_names import split_of, splits_among
from coatnet.errors import ConfigError, DataError


def picture(level=0, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level % 256, 40, 90)).save(buffer, kind)
    return buffer.getvalue()


def put(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(len(str(path))) if data is None else data)


def classes(root, *names, count=4):
    for name in names:
        for index in range(count):
            put(root / name / f"{index}.png", picture(index))
    return root


def found(path, **values):
    return find_parts(DataConfig(path=str(path), **values))


def failure(path, **values):
    with pytest.raises(DataError) as caught:
        found(path, **values)
    assert "\n" not in caught.value.message + caught.value.hint
    return f"{caught.value.message} {caught.value.hint}"


def table(path, *rows, separator=",", encoding="utf-8"):
    path.write_bytes("".join(f"{separator.join(row)}\n" for row in rows).encode(encoding))
    return path


# --- splits and levels -----------------------------------------------------------------------------------------------


def test_names_of_splits():
    for name, part in {
        "Training": "train",
        "DEV": "val",
        "test_set": "test",
        "trainset": "train",
        "val2017": "val",
    }.items():
        assert split_of(name) == part
    assert not any(map(split_of, ("bullet train", "testimony", "devon", "cat", "te", "tr")))
    assert splits_among(["seg_train", "seg_test", "seg_pred"]) == {"seg_train": "train", "seg_test": "test"}
    assert splits_among(["bullet_train", "coffee"]) == {}


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("train", "TEST"), ("training_set/training_set", "test_set/test_set")]
)
def test_split_folders_by_their_usual_names(tmp_path, names):
    for name in names:
        classes(tmp_path / name, "a", "b")
    parts = found(tmp_path).parts
    assert {part: source.class_names for part, source in parts.items()} == {"train": ("a", "b"), "test": ("a", "b")}


def test_splits_without_classes_are_no_classes(tmp_path):
    classes(tmp_path, "train", "Test")
    assert "are splits without classes: 'Test', 'train'" in failure(tmp_path)


def test_a_flat_test_is_not_used_and_that_is_said(tmp_path):
    classes(tmp_path / "train", "a", "b")
    classes(tmp_path, "test", count=3)
    notes = " ".join(found(tmp_path).notes)
    assert "Folder 'test' holds 3 images without class folders" in notes
    (tmp_path / "test").rename(tmp_path / "tests")
    classes(tmp_path / "test", "unknown")
    both = found(tmp_path)
    assert set(both.parts) == {"train"}
    assert "'unknown' of test is no class of train" in " ".join(both.notes)


def test_folders_that_wrap_the_data(tmp_path):
    classes(tmp_path / "flowers" / "flowers", "rose", "tulip")
    put(tmp_path / "__MACOSX" / "flowers" / "rose" / "._0.jpg", b"\0\5\x16\7")
    whole = found(tmp_path)
    assert whole.parts["all"].class_names == ("rose", "tulip")
    assert whole.parts["all"].names[0] == "flowers/flowers/rose/0.png"
    assert whole.left_out == {"folders __MACOSX": 1}
    assert "The data is in flowers/flowers/" in whole.notes[0]


def test_levels_of_folders(tmp_path):
    classes(tmp_path / "deep" / "animal", "cat", "dog")
    classes(tmp_path / "deep" / "vehicle", "bus")
    deep = found(tmp_path / "deep")
    assert deep.parts["all"].class_names == ("animal", "vehicle")
    assert "the 3 folders in them, such as 'animal/cat', are not told apart" in " ".join(deep.notes)
    for day in ("monday", "friday"):
        classes(tmp_path / "shared" / day, "cat", "dog")
    assert "Two levels of folders may be the classes" in failure(tmp_path / "shared")


# --- what is taken and what is left out ------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_content_tells_images(tmp_path):
    classes(tmp_path, "a", "b")
    for name in ("photo", "photo.jpg_large", "photo.jpg@w=640", "x.ppm"):
        put(tmp_path / "a" / name, picture(9, "PPM" if name == "x.ppm" else "JPEG"))
    for name in ("notes.txt", ".DS_Store", "._0.png", "Thumbs.db", "0.png:Zone.Identifier", "BM.notes"):
        put(tmp_path / "b" / name, b"BM is no image")
    put(tmp_path / "b" / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_M.jpg")
    put(tmp_path / "lying.png")
    put(tmp_path / "all.zip", b"PK")
    os.symlink("itself", tmp_path / "b" / "itself")
    whole = found(tmp_path)
    assert len(whole.parts["all"]) == 12
    assert whole.left_out == {
        **{".txt": 1, "hidden": 2, ".db": 1, ".identifier": 1, ".notes": 1, "folders @eaDir": 1, ".zip": 1},
        **{"images outside of the class folders": 1, "broken links": 1},
    }
    notes = " ".join(whole.notes)
    assert "3 files without the suffix of an image hold one and are used" in notes
    assert "2 hidden" in notes
    looked = scan("data", whole)
    assert looked.as_dict()["left_out"] == whole.left_out
    assert any("may be images and are left out" in problem for problem in looked.problems)
    assert not looked.unreadable


def test_every_verb_finds_the_same_images(tmp_path, capsys):
    classes(tmp_path / "data", "a", "b")
    put(tmp_path / "data" / "a" / "photo.jpg_large", picture(9, "JPEG"))
    put(tmp_path / "data" / "a" / "@eaDir" / "thumb.jpg")
    classes(tmp_path / "elsewhere", "c")
    os.symlink(tmp_path / "elsewhere" / "c", tmp_path / "data" / "c")
    os.symlink(tmp_path / "data", tmp_path / "data" / "a" / "loop")
    trained = set(found(tmp_path / "data").parts["all"].names)
    predicted = {path.relative_to(tmp_path / "data").as_posix() for path in find_images([tmp_path / "data"])}
    assert predicted == trained == set(list_images(tmp_path / "data")[0])
    assert len(trained) == 13
    assert "Left out: 1 folders @eaDir" in capsys.readouterr().err


def test_runs_in_the_data_are_no_class_and_none_are_written_there(tmp_path):
    classes(tmp_path / "data", "a", "b")
    for name in ("config.json", "environment.json", "overlay.png"):
        put(tmp_path / "data" / "runs" / "data" / name)
    assert found(tmp_path / "data").parts["all"].class_names == ("a", "b")
    assert found(tmp_path / "data").left_out == {"folders of coatnet runs": 1}
    os.symlink(tmp_path / "data", tmp_path / "link")
    for folder in (tmp_path / "data" / "runs" / "x", tmp_path / "link" / "x"):
        with pytest.raises(ConfigError, match="which is only read") as caught:
            outside(folder, str(tmp_path / "data"))
        assert f"--out {tmp_path / 'runs' / 'x'}" in caught.value.hint
    assert not is_inside(tmp_path / "data-2", str(tmp_path / "data"))
    assert not is_inside(tmp_path / "x", "digits")


# --- names -----------------------------------------------------------------------------------------------------------


def test_one_class_in_two_unicode_forms(tmp_path):
    name = "caf\u00e9"
    classes(tmp_path / "train", name, "b")
    classes(tmp_path / "val", unicodedata.normalize("NFD", name), "b")
    parts = found(tmp_path).parts
    assert parts["val"].class_names == parts["train"].class_names == ("b", name)
    older = [unicodedata.normalize("NFD", name), "b"]
    assert parts["val"].relabelled(older).labels.tolist() == [1] * 4 + [0] * 4


def test_names_that_are_nearly_the_same_are_said(tmp_path):
    splits = open_data(DataConfig(path=str(classes(tmp_path, "Cat", "cat", "07", "7", "nan"))))
    notes = " ".join(splits.notes)
    assert "'Cat', 'cat'" in notes
    assert "'07', '7'" in notes
    assert "'nan' may stand for a missing label" in notes


# --- text tables -----------------------------------------------------------------------------------------------------

ROWS = [(f"img/{name}{index}.png", name) for name in ("cat", "dog") for index in range(3)]
FORMS = {
    "semicolon": dict(header=("path", "label"), separator=";"),
    "tab": dict(header=("path", "label"), separator="\t"),
    "byte order mark": dict(header=("path", "label"), encoding="utf-8-sig"),
    "utf-16": dict(header=("path", "label"), encoding="utf-16"),
    "other names": dict(header=("File Name", "Breed")),
    "no header": dict(),
    "backslashes": dict(header=("path", "label"), path=lambda path: path.replace("/", "\\")),
    "Windows": dict(header=("path", "label"), path=lambda path: "C:\\Users\\me\\" + path.replace("/", "\\")),
    "detours": dict(header=("path", "label"), path=lambda path: f"./x/..//{path}"),
    "no suffix": dict(header=("path", "label"), path=lambda path: path.removesuffix(".png")),
    "spaces": dict(header=("path", " label"), label=lambda label: f" {label} "),
    "comma at the end": dict(header=("path", "label"), label=lambda label: f"{label},"),
}


@pytest.fixture
def folder(tmp_path):
    for path, _ in ROWS:
        put(tmp_path / path)
    return tmp_path


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_tables(folder, name):
    form = dict(FORMS[name])
    header, path, label = form.pop("header", None), form.pop("path", str), form.pop("label", str)
    rows = [(path(image), label(kind)) for image, kind in ROWS]
    source = found(table(folder / "a.csv", *([header] if header else []), *rows, **form)).parts["all"]
    assert list(source.names) == [path for path, _ in ROWS]
    assert [source.class_names[label] for label in source.labels] == [kind for _, kind in ROWS]
    assert all(source.read(index) for index in range(len(source)))


def test_labels_of_tables(folder):
    def labels(*cells, header=("path", "label")):
        rows = [(path, *cell) for (path, _), cell in zip(ROWS, cells, strict=True)]
        return found(table(folder / "a.csv", header, *rows)).parts["all"].class_names

    assert labels(*[("1.0",), ("0.0",)] * 3) == ("0", "1")
    assert labels(*[("1", "0"), ("0", "1")] * 3, header=("path", "cat", "dog")) == ("cat", "dog")
    for cells, told in {
        ("20.5", "21.5", "23.1", "24.2", "25.3", "26.4"): "look like a quantity",
        ("1", "2", "nan", "1", "2", "1"): "1 rows have the label 'nan'",
        ("a", "", "", "b", "a", "b"): "line 3: an empty cell in column 'label'; 2 rows have one",
    }.items():
        with pytest.raises(DataError, match=told):
            labels(*[(cell,) for cell in cells])
    with pytest.raises(DataError, match="line 2: 2 columns of classes are 1"):
        labels(*[("1", "1")] * 6, header=("path", "cat", "dog"))


def test_splits_of_tables(folder):
    header = ("path", "label")
    rows = [(*row, "True" if index % 3 == 0 else "False") for index, row in enumerate(ROWS)]
    parts = found(table(folder / "a.csv", (*header, "is_valid"), *rows)).parts
    assert {part: len(source) for part, source in parts.items()} == {"train": 4, "val": 2}
    rows = [(*row, "Dev" if index % 3 == 0 else "training") for index, row in enumerate(ROWS)]
    assert set(found(table(folder / "a.csv", (*header, "split"), *rows)).parts) == {"train", "val"}
    rows = [(*row, "" if index % 3 == 0 else "train") for index, row in enumerate(ROWS)]
    assert "so in 2 of 6 rows" in failure(table(folder / "a.csv", (*header, "split"), *rows))


def test_paths_of_tables(folder):
    header = ("path", "label")
    whole = found(
        table(folder / "a.csv", header, *ROWS, *[(f"./{path}", kind) for path, kind in ROWS], ("img/gone.png", "cat"))
    )
    assert len(whole.parts["all"]) == 7
    assert "1 file is not there" in " ".join(whole.notes)
    assert "6 rows of a.csv repeat" in " ".join(whole.notes)
    ids = [(path[4:-4], kind) for path, kind in ROWS]
    hint = failure(table(folder / "ids.csv", ("id", "breed"), *ids))
    assert "add --image-root img --image-suffix .png" in hint
    assert len(found(folder / "ids.csv", image_root="img", image_suffix=".png").parts["all"]) == 6
    url = [(f"https://example.org/{path}", kind) for path, kind in ROWS]
    assert "does not download" in failure(table(folder / "url.csv", header, *url))
    unused = found(table(folder / "b.csv", (*header, "age"), *[(*row, "3") for row in ROWS]))
    assert "Columns that are not used: 'age'." in unused.notes


def test_metadata_beside_the_images(folder):
    lines = "".join(f'{{"file_name": "{path}", "label": "{kind}"}}\n' for path, kind in ROWS)
    (folder / "metadata.jsonl").write_text(lines)
    assert found(folder).parts["all"].class_names == ("cat", "dog")
    (folder / "metadata.jsonl").write_text('{"file_name": "img/cat0.png", "text": "a cat"}\n')
    assert found(folder).parts["all"].class_names == ("img",)
    (folder / "metadata.jsonl").write_text("[" * 100_000)
    assert "line 1: no JSON" in failure(folder / "metadata.jsonl")


# --- hostile and odd files -------------------------------------------------------------------------------------------


def test_tables_that_are_no_text(folder):
    (folder / "nul.csv").write_bytes(b"path,label\nimg/cat0.png,x\nimg/a\0.png,y\n")
    assert "line 3: a zero byte" in failure(folder / "nul.csv")
    (folder / "long.csv").write_bytes(b"path,label\n" + b"x" * (2 << 20))
    assert "longer than" in failure(folder / "long.csv")
    os.symlink("loop", folder / "loop")
    assert "a link that leads nowhere" in failure(folder / "loop")
    for name in ("hf:../../etc", "hf:", "hf:a/b/c"):
        assert "names no data set of the hub" in failure(name)


def parquet(path, image, label, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": image, "label": label}), path, **options)
    return path


@pytest.mark.parametrize("kind", [pa.binary(), pa.struct({"bytes": pa.binary()}), pa.list_(pa.binary())], ids=str)
def test_what_repeats_in_parquet_stays_one(tmp_path, kind):
    """One cell of a megabyte in 2,000 rows, in a file of some kilobytes: it is never 2 GB."""
    cell = {"binary": lambda x: x, "struct<bytes: binary>": lambda x: {"bytes": x}}.get(str(kind), lambda x: [x])
    rows = pa.array([cell(bytes(1_000_000))]).take(pa.array([0] * 50))
    small = parquet(tmp_path / "a.parquet", pa.concat_arrays([rows] * 40).cast(kind), [0, 1] * 1000, compression="zstd")
    assert read_columns(small, ["image", "label"]).nbytes < 5_000_000
    source = found(small).parts["all"]
    with pytest.raises(ImageError, match="above 10"):
        source.read(1999, ImageLimits(max_bytes=10))


def test_parquet_that_grows_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *_, **__: pytest.fail("it was read"))
    grown = parquet(
        tmp_path / "a.parquet", [bytes(1_000_000)] * 100, [0, 1] * 50, compression="zstd", use_dictionary=False
    )
    assert "100,0" in failure(grown)
    many = parquet(tmp_path / "b.parquet", pa.nulls(1_100_000, pa.binary()), pa.array([0] * 1_100_000))
    assert "declares 1,100,000 rows" in failure(many)


def test_labels_of_parquet(tmp_path):
    images = [picture(index) for index in range(6)]
    for name, labels, names in (
        ("bool", [True, False] * 3, ("false", "true")),
        ("float", [1.0, 0.0] * 3, ("0", "1")),
        ("list", [[1], [0]] * 3, ("0", "1")),
        ("text", [" a", "cafe\u0301"] * 3, ("a", "caf\u00e9")),
    ):
        assert found(parquet(tmp_path / f"{name}.parquet", images, labels)).parts["all"].class_names == names, name
    assert "2 values" in failure(parquet(tmp_path / "several.parquet", images, [[0, 1], [0]] * 3))
    assert "1,000,000 bytes" in failure(parquet(tmp_path / "long.parquet", images, ["x" * 1_000_000] * 6))
    nulls = found(parquet(tmp_path / "null.parquet", [*images[:5], None], [0, 1] * 3))
    assert "1 rows hold no image" in " ".join(nulls.notes)


def test_folders_of_parquet(tmp_path):
    images = [picture(index) for index in range(6)]
    parquet(tmp_path / "hub" / "plain_text" / "train-00000-of-00001.parquet", images, [0, 1] * 3)
    parquet(tmp_path / "hub" / "plain_text" / "dev-00000-of-00001.parquet", images, [0, 1] * 3)
    assert set(found(tmp_path / "hub").parts) == {"train", "val"}
    for part in ("train", "test"):
        parquet(tmp_path / "converted" / "default" / part / "0000.parquet", images, [0, 1] * 3)
    parts = found(tmp_path / "converted").parts
    assert {source.names[0] for source in parts.values()} == {"train/0000.parquet:0", "test/0000.parquet:0"}
    parquet(tmp_path / "hub" / "other" / "train.parquet", images, [0, 1] * 3)
    assert "several data sets" in failure(tmp_path / "hub")
