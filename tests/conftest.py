"""What several rooms' tests need: a tiny network, a few drawn images, a classifier folder."""

from pathlib import Path

import pytest
import torch

from cli.drawn import draw_classes
from coatnet.classifier import Classifier
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums are ordered the same however many tests run beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws():
    """A network without a seed of its own is the same whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is remembered from, or for, the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_config():
    """32 px, three classes, some thousand parameters."""
    return CoAtNetConfig.from_layout(
        "CCTT", (2, 1, 1, 1, 1), (8, 8, 16, 32, 32), image_size=32, num_classes=3, head_size=16
    )


@pytest.fixture
def image_folder(tmp_path):
    """18 images of three classes."""
    return draw_classes(tmp_path / "shapes")


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory, tiny_config) -> Path:
    """The folder of an untrained classifier of the classes of `image_folder`. Not to be changed: copy it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifiers") / "tiny"
    Classifier(create_model(tiny_config), class_names=("circle", "cross", "square")).save(folder)
    return folder
