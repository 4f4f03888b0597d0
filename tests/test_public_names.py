"""`import coatnet` is quick, and gives each public name when it is asked for."""

import subprocess
import sys

import pytest

import coatnet
from coatnet.version import __version__


def test_import_needs_nothing_heavy():
    code = "import coatnet, sys; print([m for m in ('torch', 'numpy', 'pydantic', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", coatnet.__all__)
def test_each_name_is_there(name):
    assert getattr(coatnet, name) is not None
    assert name in dir(coatnet)


def test_names_of_the_design():
    names = {"create_model", "CoAtNetConfig", "Classifier", "Prediction", "ImageError", "Preprocess", "evaluate"}
    assert names | {"train", "resume", "recipes", "TrainConfig", "CoatnetError"} <= set(coatnet.__all__)
    assert coatnet.__version__ == __version__
    assert callable(coatnet.recipes.small_data)
    assert issubclass(coatnet.ImageError, coatnet.CoatnetError)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'coatnet' has no attribute 'trian'"):
        coatnet.trian  # noqa: B018
