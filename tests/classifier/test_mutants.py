"""Damage of any kind to a classifier folder: it is refused with a reason, or it made no difference."""

import random
import shutil

import numpy as np
import pytest

from coatnet.classifier import Classifier
from coatnet.classifier.folder import CARD, JSON_FILES, WEIGHTS
from coatnet.errors import ModelFileError

FILES = (WEIGHTS, *JSON_FILES, CARD)
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)


def mutant(data, dice):
    """The bytes with one thing wrong."""
    place, length = dice.randrange(len(data)), dice.choice((1, 1, 2, 8, 64))
    kind = dice.choice(("bit", "byte", "digit", "delete", "insert", "repeat", "cut", "zero", "swap"))
    noise = bytes(dice.randrange(256) for _ in range(length))
    digits = [index for index, byte in enumerate(data[:20_000]) if 48 <= byte <= 57]
    if kind == "digit" and digits:
        place = dice.choice(digits)
        return data[:place] + str(dice.randrange(10)).encode() + data[place + 1 :]
    return {
        "bit": data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :],
        "byte": data[:place] + noise + data[place + length :],
        "digit": data[:place] + b"0" + data[place + 1 :],
        "delete": data[:place] + data[place + length :],
        "insert": data[:place] + noise + data[place:],
        "repeat": data[:place] + data[place : place + length] + data[place:],
        "cut": data[:place],
        "zero": data[:place] + bytes(length) + data[place + length :],
        "swap": data[:place] + data[place : place + 2][::-1] + data[place + 2 :],
    }[kind]


def load_or_reason(folder):
    """The classifier, or why it was refused; any other error is a crash."""
    try:
        return Classifier.load(folder, device="cpu")
    except ModelFileError as error:
        return str(error)


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutants(tiny_classifier, tmp_path, count):
    folder = tmp_path / "mutant"
    shutil.copytree(tiny_classifier, folder)
    whole = Classifier.load(folder, device="cpu")
    expected, refused = whole.logits(IMAGE), 0
    for number in range(count):
        dice = random.Random(number)
        path = folder / FILES[number % len(FILES)]
        data = path.read_bytes()
        changed = mutant(data, dice)
        path.write_bytes(changed)
        loaded = load_or_reason(folder)
        if isinstance(loaded, str):
            refused += 1
            assert changed != data
            assert len(loaded.splitlines()) == 1
            assert str(folder) in loaded
        else:
            assert loaded.class_names == whole.class_names, number
            assert loaded.preprocess == whole.preprocess, number
            np.testing.assert_array_equal(loaded.logits(IMAGE), expected, err_msg=str(number))
        path.write_bytes(data)
    assert refused > count / 2
