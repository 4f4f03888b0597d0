"""A listing that is remembered is never another than the folder's."""

import os
import time

import pytest

from cli.drawn import draw_classes
from coatnet.data import listing
from coatnet.data.listing import list_classes
from coatnet.data.sources import open_unsplit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Class folders that are listed once and remembered, however few and new they are."""
    monkeypatch.setattr(listing, "REMEMBERED_FROM", 0)
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = draw_classes(tmp_path / "shapes", count=4)
    (root / "square" / "deep" / "deeper").mkdir(parents=True)
    (root / "square" / "deep" / "deeper" / "x.png").touch()
    (root / "empty").mkdir()
    (root / "circle" / os.fsdecode(b"\xff\n.png")).touch()
    remember(root)
    return root


def remember(root):
    time.sleep(0.02)  # the clock of a file system ticks every 4 to 10 ms
    found = list_classes(root)
    assert is_remembered(root)
    return found


def is_remembered(root):
    memory = listing._memory_of(root)
    return listing._recall(memory, root) is not None


def fresh(root, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        return list_classes(root)


def test_remembered_is_what_is_there(folder, monkeypatch, tmp_path):
    found = list_classes(folder)
    assert found == fresh(folder, monkeypatch, tmp_path)
    assert list(found.files) == ["circle", "cross", "empty", "square"]
    assert found.files["square"][-1] == "square/deep/deeper/x.png"
    assert len(open_unsplit(str(folder))) == 14


CHANGES = {
    "file added": lambda root: (root / "cross" / "new.png").touch(),
    "file removed": lambda root: (root / "cross" / "1.png").unlink(),
    "file renamed": lambda root: (root / "cross" / "1.png").rename(root / "cross" / "9.png"),
    "file moved": lambda root: (root / "cross" / "1.png").rename(root / "circle" / "7.png"),
    "deep file added": lambda root: (root / "square" / "deep" / "deeper" / "y.png").touch(),
    "deep folder added": lambda root: (root / "square" / "deep" / "other").mkdir(),
    "class renamed": lambda root: (root / "cross").rename(root / "kross"),
    "classes swapped": lambda root: swap(root / "cross", root / "circle"),
    "class added": lambda root: draw_classes(root, ("star",)),
    "class filled": lambda root: (root / "empty" / "a.png").touch(),
    "folder replaced": lambda root: replace(root),
    "times put back": lambda root: put_back(root / "cross"),
}


def swap(one, two):
    one.rename(one.with_name("other"))
    two.rename(one)
    one.with_name("other").rename(two)


def replace(root):
    root.rename(root.with_name("before"))
    draw_classes(root, count=3)


def put_back(folder):
    before = folder.stat()
    (folder / "1.png").rename(folder / "9.png")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_seen(folder, monkeypatch, tmp_path, name):
    before = list_classes(folder)
    CHANGES[name](folder)
    after = fresh(folder, monkeypatch, tmp_path)
    assert list_classes(folder) == after
    assert (after == before) == (name == "deep folder added")


def test_a_folder_that_just_changed_is_not_remembered(folder, monkeypatch):
    """Within one tick of the clock a file could be added and the time stay the same."""
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 1000.0)
    (folder / "cross" / "new.png").touch()
    assert len(list_classes(folder).files["cross"]) == 5
    assert not is_remembered(folder)


def test_few_files_are_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 0.0)
    root = draw_classes(tmp_path / "shapes")
    time.sleep(0.02)
    list_classes(root)
    assert not is_remembered(root)


def test_without_a_place_to_remember_it_works(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    expected = list_classes(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert list_classes(folder) == expected
    assert not is_remembered(folder)


def test_a_damaged_memory_is_made_anew(folder):
    expected = list_classes(folder)
    memory = listing._memory_of(folder)
    whole = memory.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:300] + b"\xff" * 40 + whole[340:]):
        memory.write_bytes(damaged)
        assert list_classes(folder) == expected
