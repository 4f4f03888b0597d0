"""Which images are scored, under which names, and what becomes of those that cannot be read.

The classifier here answers with the channel means of an image, so red, green and blue images are right by construction.
"""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from coatnet.classifier import Classifier
from coatnet.data.loader import evaluation_batches
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig, open_data, open_unsplit
from coatnet.data.splitting import stored_split
from coatnet.errors import DataError, ModelFileError, Stopped
from coatnet.evaluation.evaluate import evaluate, find_split, score
from coatnet.runtime.engines import Engine

COLOURS = {"red": 0, "green": 1, "blue": 2}


class Means(Engine):
    def logits(self, images):
        assert len(images) > 0
        return 9 * images.mean(axis=(2, 3))


@pytest.fixture
def classifier():
    return Classifier(Means(), Preprocess(image_size=32, mean=(0, 0, 0), std=(1, 1, 1)), tuple(COLOURS))


def png(colour: str, index: int = 0) -> bytes:
    pixels = np.full((10, 10, 3), index % 30, np.uint8)
    pixels[..., COLOURS[colour]] = 200
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder, num_images: int, shown: Callable[[str], str] = str):
    """`num_images` per class in class folders; the colour shown is `shown(class)`."""
    for name in COLOURS:
        (folder / name).mkdir(parents=True)
        for index in range(num_images):
            (folder / name / f"{index:03d}.png").write_bytes(png(shown(name), index))
    return folder


def wrong(name):
    return "red" if name == "blue" else "blue"


def test_a_bare_folder_is_scored_whole(tmp_path, classifier):
    found = evaluate(classifier, fill(tmp_path / "data", 33), batch_size=7, workers=0)
    assert (found.split, found.num_images, found.top1) == ("all", 99, 1)
    assert len(set(found.answers.names)) == 99


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_counts_once_whatever_the_batch(tmp_path, classifier, workers):
    folder = fill(tmp_path / "data", 5, lambda name: "red")
    whole = evaluate(classifier, folder, workers=workers)
    for batch_size in (1, 4, 15, 16):
        assert evaluate(classifier, folder, batch_size=batch_size, workers=workers).as_dict() == whole.as_dict()
    assert (whole.num_images, whole.top1) == (15, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("given", "asked", "scored"),
    [
        (("train", "val", "test"), None, "test"),
        (("train", "val"), None, "val"),
        (("train", "test"), None, "test"),
        (("test",), None, "test"),
        (("train",), None, "all"),
        (("train", "val", "test"), "val", "val"),
        (("train", "val", "test"), "train", "train"),
    ],
)
def test_given_splits_are_taken_test_first(tmp_path, classifier, given, asked, scored):
    for name in given:
        fill(tmp_path / name, 3, str if name == scored or scored == "all" else wrong)
    found = evaluate(classifier, tmp_path, split=asked, workers=0)
    assert (found.split, found.num_images, found.top1) == (scored, 9, 1)


def test_all_means_all_splits(tmp_path, classifier):
    for name in ("train", "test"):
        fill(tmp_path / name, 3, str if name == "test" else wrong)
    found = evaluate(classifier, tmp_path, split="all", workers=0)
    assert (found.num_images, found.top1) == (18, 0.5)


def test_a_split_that_is_not_there_is_named(tmp_path, classifier):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "val", 3)
    with pytest.raises(DataError, match="no test split: found train, val"):
        evaluate(classifier, tmp_path, split="test")


def test_the_split_that_a_run_chose_is_taken_again(tmp_path):
    config = DataConfig(path=str(fill(tmp_path / "data", 20)), test_fraction=0.2)
    splits = open_data(config)
    source, name = find_split(config, record=splits.chosen)
    assert name == "test"
    assert list(source.names) == list(splits.test.names)
    for part, expected in (("val", splits.val), ("train", splits.train)):
        assert list(find_split(config, part, splits.chosen)[0].names) == list(expected.names)
    assert len(find_split(config, "all", splits.chosen)[0]) == 60


def test_the_chosen_val_is_not_part_of_train_where_test_is_given(tmp_path):
    for name in ("train", "test"):
        fill(tmp_path / name, 10)
    config = DataConfig(path=str(tmp_path))
    splits = open_data(config)
    for part, expected in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        assert list(find_split(config, part, splits.chosen)[0].names) == list(expected.names)


def test_a_split_of_other_images_does_not_count(tmp_path):
    record = open_data(DataConfig(path=str(fill(tmp_path / "data", 20)))).chosen
    source, name = find_split(DataConfig(path=str(fill(tmp_path / "other", 2))), record=record)
    assert (name, len(source)) == ("all", 6)


def test_a_stored_split_is_read_and_a_damaged_one_named(tmp_path):
    assert stored_split(tmp_path) is None
    record = open_data(DataConfig(path=str(fill(tmp_path / "data", 20)))).chosen
    (tmp_path / "split.json").write_text(record.model_dump_json())
    assert stored_split(tmp_path) == record
    (tmp_path / "split.json").write_text('{"val": 3}')
    with pytest.raises(ModelFileError, match=r"split\.json: "):
        stored_split(tmp_path)


def test_digits_have_a_test_part():
    config = DataConfig(path="digits")
    source, name = find_split(config)
    assert name == "test"
    assert list(source.names) == list(open_data(config).test.names)


def test_classes_are_joined_by_name_not_by_position(tmp_path, classifier):
    folder = fill(tmp_path / "data", 4)  # its classes are in the order of the alphabet: blue, green, red
    assert open_unsplit(str(folder)).class_names == ("blue", "green", "red")
    found = evaluate(classifier, folder, workers=0)
    assert found.class_names == ("red", "green", "blue")
    assert found.top1 == 1


def test_a_classifier_may_know_more_classes_than_the_data(tmp_path, classifier):
    folder = fill(tmp_path / "data", 4)
    for path in (folder / "green").iterdir():
        path.unlink()
    (folder / "green").rmdir()
    found = evaluate(classifier, folder, workers=0)
    assert [score.support for score in found.per_class] == [4, 0, 4]


def test_a_class_that_the_classifier_does_not_know_is_named(tmp_path, classifier):
    folder = fill(tmp_path / "data", 2)
    (folder / "blue").rename(folder / "violet")
    with pytest.raises(DataError, match=r"violet.*red.*green.*blue"):
        evaluate(classifier, folder)


@pytest.fixture
def damaged(tmp_path):
    folder = fill(tmp_path / "data", 5)
    (folder / "red" / "000.png").write_bytes(b"")
    (folder / "green" / "003.png").write_bytes(png("green")[:45])
    return folder


def test_unreadable_images_count_as_wrong_and_are_named(damaged, classifier):
    found = evaluate(classifier, damaged, batch_size=4, workers=0)
    assert (found.num_images, found.top1) == (15, 13 / 15)
    assert len(found.unreadable) == 2
    assert found.unreadable[0].endswith("green/003.png")
    assert found.unreadable[1].endswith("red/000.png")
    assert [score.recall for score in found.per_class] == [0.8, 0.8, 1]


def test_unreadable_images_can_be_excluded(damaged, classifier):
    found = evaluate(classifier, damaged, bad="exclude", workers=0)
    assert (found.num_images, found.top1, len(found.unreadable)) == (13, 1, 2)


def test_a_batch_of_nothing_but_unreadable_images(damaged, classifier):
    found = evaluate(classifier, damaged, batch_size=1, workers=0)
    assert (found.num_images, found.top1) == (15, 13 / 15)


def test_nothing_readable_is_an_error(tmp_path, classifier):
    folder = fill(tmp_path / "data", 2)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="None of the 6 images could be read"):
        evaluate(classifier, folder, workers=0)


def test_a_source_is_scored_whole(tmp_path, classifier):
    source = open_unsplit(str(fill(tmp_path / "data", 4))).subset([0, 5, 11])
    found = evaluate(classifier, source, split="val", workers=0)
    assert (found.split, found.num_images, found.top1) == ("val", 3, 1)


def test_a_stop_is_looked_at_before_each_batch(tmp_path, classifier):
    looks = []
    with pytest.raises(Stopped) as caught:
        evaluate(
            classifier,
            fill(tmp_path / "data", 4),
            batch_size=3,
            workers=0,
            should_stop=lambda: looks.append(1) or len(looks) == 3,
        )
    assert len(looks) == 3
    assert caught.value.exit_code == 75


def test_score_needs_only_a_function(tmp_path, classifier):
    source = open_unsplit(str(fill(tmp_path / "data", 3)))
    batches = evaluation_batches(source, classifier.preprocess, 4, 0)
    found = score(lambda images: images.mean(axis=(1, 2))[:, ::-1], source, batches, split="val")
    assert (found.split, found.top1, found.class_names) == ("val", 1, ("blue", "green", "red"))
