"""A batch in the worker: each image by itself, whatever the others are."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from coatnet.classifier import Classifier, Prediction
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError
from coatnet.runtime.engines import Engine
from coatnet.serving.config import ServeConfig
from coatnet.serving.messages import Classify, Item, Job
from coatnet.serving.problems import EXPIRED, FAILED, Problem
from coatnet.serving.tuning import BATCHES, tune
from coatnet.serving.worker import Worker
from serving.conftest import picture


class Brightness(Engine):
    """Two logits from the mean; dark images are too much for it. Takes as long as it is told to."""

    def __init__(self, seconds=0.0, seconds_per_image=0.0):
        self.seconds, self.seconds_per_image = seconds, seconds_per_image
        self.batches = []

    def logits(self, images):
        self.batches.append(len(images))
        time.sleep(self.seconds + self.seconds_per_image * len(images))
        means = images.mean((1, 2, 3))
        if (means < -1.9).any():
            raise ValueError("too dark")
        return np.stack([means, -means], axis=1).astype(np.float32)


def classifier(engine):
    return Classifier(engine, Preprocess(image_size=32), ("bright", "dark"))


def ask(engine, *files, deadline=60.0):
    items = [Item(data, Classify(2), time.monotonic() + deadline) for data in files]
    job = Job(
        path="",
        published=False,
        device="cpu",
        runtime="torch",
        precision="float32",
        image_size=None,
        limits=ServeConfig().limits,
        threads=None,
        batch_size=None,
    )
    with ThreadPoolExecutor(2) as pool:
        return Worker(classifier(engine), job, pool).answer(items)


def plain(level):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_bad_file_fails_alone():
    engine = Brightness()
    found = ask(engine, picture(0), b"nothing", picture(1), picture(2)[:60])
    assert [getattr(one, "code", None) for one in found.answers] == [None, "unsupported_format", None, "truncated"]
    assert engine.batches == [2]
    assert found.num_computed == 2
    alone = ask(engine, picture(1)).answers[0]
    assert found.answers[2] == alone


def test_an_image_that_the_network_fails_at_fails_alone(capsys):
    engine = Brightness()
    found = ask(engine, plain(200), plain(0), plain(100))
    assert [type(one) for one in found.answers] == [Prediction, Problem, Prediction]
    assert found.answers[1] == FAILED
    assert engine.batches == [3, 1, 1, 1]
    assert "too dark" in capsys.readouterr().err


def test_what_is_too_late_is_not_computed():
    engine = Brightness()
    found = ask(engine, picture(0), picture(1), deadline=-0.001)
    assert found.answers == [EXPIRED, EXPIRED]
    assert (found.num_computed, engine.batches) == (0, [])


@pytest.mark.parametrize("seconds", [0.02, 0.0])
def test_the_batch_is_the_smallest_that_pays(seconds):
    """Where a batch costs 20 ms whatever is in it, the largest; where only images cost, one."""
    engine = Brightness(seconds, 0.0 if seconds else 0.02)
    tuned = tune(classifier(engine), None, None)
    assert tuned.batch_size in (BATCHES[-1:] if seconds else BATCHES[:2])
    assert tuned.rate == pytest.approx(tuned.batch_size / tuned.seconds)
    assert tuned.threads == 0


def test_a_batch_that_is_given_is_not_chosen():
    engine = Brightness()
    assert tune(classifier(engine), None, 3).batch_size == 3
    assert set(engine.batches) == {3}


def test_threads_are_refused_where_they_would_be_ignored():
    with pytest.raises(ConfigError, match="--threads 2"):
        tune(classifier(Brightness()), 2, None)
