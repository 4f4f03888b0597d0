"""A tiny ImageNet-1K, laid out as the challenge does."""

import numpy as np
import pytest
from scipy.io import savemat

from cli.drawn import draw_classes
from coatnet.data.sources import DataConfig, find_parts, open_data
from coatnet.errors import DataError

SYNSETS = ("n01440764", "n01443537", "n02084071")
VALIDATION = (2, 0, 1, 2, 0)


@pytest.fixture
def challenge(tmp_path):
    """The root, without the labels of the validation images."""
    place = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    draw_classes(place / "train", SYNSETS, count=5)
    for path in place.rglob("*.png"):
        path.rename(path.with_name(f"{path.parent.name}_{path.stem}.JPEG"))
    (place / "val").mkdir()
    for index, label in enumerate(VALIDATION, start=1):
        data = (place / "train" / SYNSETS[label] / f"{SYNSETS[label]}_0.JPEG").read_bytes()
        (place / "val" / f"ILSVRC2012_val_{index:08d}.JPEG").write_bytes(data)
    (place / "test").mkdir()
    (place / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(data)
    return tmp_path


def write_solution(root, rows=VALIDATION):
    lines = ["ImageId,PredictionString"]
    order = list(enumerate(rows, start=1))
    for index, label in order[::-1]:  # Kaggle's is in no order
        lines.append(f"ILSVRC2012_val_{index:08d},{SYNSETS[label]} 1 2 30 40 {SYNSETS[label]} 5 6 7 8 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")


def write_kit(root):
    """The kit's numbers are in another order than the names of the synsets, and count inner nodes too."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    numbers = {SYNSETS[0]: 3, SYNSETS[1]: 1, SYNSETS[2]: 2, "n00001740": 4}
    synsets = np.zeros(4, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")])
    for row, (name, number) in enumerate(sorted(numbers.items(), key=lambda item: item[1])):
        synsets[row] = (float(number), name, "a name", float(number == 4))
    savemat(kit / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[SYNSETS[label]]}\n" for label in VALIDATION)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


@pytest.mark.parametrize("write", [write_solution, write_kit])
@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_the_challenge(challenge, write, below):
    write(challenge)
    splits = open_data(DataConfig(path=str(challenge / below)))
    assert (len(splits.train), splits.test, splits.chosen) == (15, None, None)
    assert splits.train.class_names == splits.val.class_names == SYNSETS
    assert splits.val.labels.tolist() == list(VALIDATION)
    assert splits.val.names[0] == "val/ILSVRC2012_val_00000001.JPEG"
    for source in (splits.train, splits.val):
        for index in range(len(source)):  # the first of each class was copied to val
            folder = challenge / "ILSVRC/Data/CLS-LOC/train" / SYNSETS[source.labels[index]]
            assert source.read(index) in {path.read_bytes() for path in folder.iterdir()}
    assert any("test images have no labels" in note for note in splits.notes)


def failure(root):
    with pytest.raises(DataError) as caught:
        find_parts(DataConfig(path=str(root)))
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_missing_labels(challenge):
    error = failure(challenge)
    assert "labels of the validation images" in error.message
    assert "LOC_val_solution.csv" in error.hint
    write_solution(challenge, VALIDATION[:3])
    assert "2 of 5 validation images have no label: 'ILSVRC2012_val_00000004.JPEG'" in failure(challenge).message
    (challenge / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    assert "expected rows of ImageId,PredictionString" in failure(challenge).message


def test_numbers_without_their_meaning(challenge):
    """The ground truth alone does not say which class a number is: sorted names would be wrong without a word."""
    write_kit(challenge)
    (challenge / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").unlink()
    assert "meta.mat" in failure(challenge).message
    (challenge / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").write_bytes(b"no matrix")
    assert "not as the challenge made it" in failure(challenge).message


def test_a_class_that_was_not_unpacked(challenge):
    write_solution(challenge)
    for path in (challenge / "ILSVRC/Data/CLS-LOC/train" / SYNSETS[2]).iterdir():
        path.unlink()
    assert f"Class '{SYNSETS[2]}' of val is not in train" in failure(challenge).message
