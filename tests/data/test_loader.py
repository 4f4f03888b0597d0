"""Training batches are a function of (seed, step) whatever prepares them; evaluation sees every image once."""

import io
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.cache import decode_all, read_image
from coatnet.data.images import ImageLimits, decode
from coatnet.data.loader import TrainingStream, evaluation_batches
from coatnet.data.preprocess import Preprocess
from coatnet.data.randomness import permutation
from coatnet.data.samples import BytesSource
from coatnet.errors import DataError, ResourceError

PREPROCESS = Preprocess(image_size=32, interpolation="bilinear")
NOTHING = AugmentationConfig()
MUCH = AugmentationConfig(
    horizontal_flip=True, crop_padding=2, crop_scale=(0.4, 1), rotation=10, color_jitter=0.2, randaugment_layers=1
)


def sample_source(count=23, bad=(), size=None):
    """Image `index` has its index as red and its label as green; sizes differ unless one is given."""
    generator = np.random.default_rng(0)
    files = []
    for index in range(count):
        height, width = size or generator.integers(20, 90, 2)
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image[:, :, 0] = index
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        files.append(b"not an image" if index in bad else buffer.getvalue())
    labels = np.arange(count, dtype=np.int64) % 3
    return BytesSource(["a", "b", "c"], labels, [f"sample{index}" for index in range(count)], files)


def stream(source, augmentation=NOTHING, workers=0, **values):
    options = {"seed": 5, "batch_size": 8, "max_bad": 0.2, **values}
    return TrainingStream(source, PREPROCESS, augmentation, workers=workers, **options)


def same(first, second):
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.step == b.step
        for a, b in zip(first, second, strict=True)
    )


def sample_ids(batches):
    return [int(value) for batch in batches for value in batch.images[:, 16, 16, 0]]


@pytest.mark.parametrize("memory", [None, 0])
def test_workers_and_resumption_change_nothing(memory):
    source = sample_source()
    straight = list(stream(source, MUCH, memory=memory).batches(0, 9))
    assert [batch.step for batch in straight] == list(range(9))
    assert all(batch.images.shape == (8, 32, 32, 3) and batch.images.dtype == torch.uint8 for batch in straight)
    assert all(batch.labels.shape == (8,) and batch.labels.dtype == torch.int64 for batch in straight)
    for workers in (1, 2):
        assert same(straight, list(stream(source, MUCH, workers, memory=memory).batches(0, 9)))
    resumed = stream(source, MUCH, 2, memory=memory)
    assert same(straight[5:], list(resumed.batches(5, 9)))
    assert same(straight[2:4], list(resumed.batches(2, 4)))
    assert not same(straight, list(stream(source, MUCH, seed=6, memory=memory).batches(0, 9)))


@pytest.mark.parametrize("augmentation", [NOTHING, MUCH, AugmentationConfig(crop_padding=3)])
@pytest.mark.parametrize("bad", [(), (2, 3, 11)])
def test_memory_changes_nothing(augmentation, bad):
    source = sample_source(bad=bad)
    kept, not_kept = stream(source, augmentation), stream(source, augmentation, memory=0)
    assert kept.in_memory
    assert not not_kept.in_memory
    assert same(kept.batches(0, 9), not_kept.batches(0, 9))


def test_large_images_are_reduced_the_same_with_and_without_memory():
    source = sample_source(6, size=(200, 300))
    kept, not_kept = stream(source, MUCH), stream(source, MUCH, memory=0)
    assert same(kept.batches(0, 3), not_kept.batches(0, 3))
    assert kept._preparation.decoded[0].shape == (67, 100, 3)  # 200 / 3, the last whole factor that leaves 2 x 32


def test_without_random_crops_images_keep_what_the_nearest_view_shows():
    turned = AugmentationConfig(rotation=10, translation=0.1, zoom=(0.8, 1.2))
    source = sample_source(6, size=(200, 300))
    kept, not_kept = stream(source, turned), stream(source, turned, memory=0)
    assert same(kept.batches(0, 3), not_kept.batches(0, 3))
    assert kept._preparation.decoded[0].shape == (39, 58, 3)  # 39 = 1.2 x 32
    farther = stream(source, AugmentationConfig(zoom=(0.5, 0.8)))
    assert farther._preparation.decoded[0].shape == (32, 48, 3)
    small = stream(sample_source(6, size=(30, 39)), turned)
    assert small._preparation.decoded[0].shape == (30, 39, 3)


def test_every_sample_once_in_every_epoch():
    ids = sample_ids(stream(sample_source()).batches(0, 23))
    epochs = [ids[start : start + 23] for start in range(0, 184, 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert epochs[3] == permutation(5, 3, 23).tolist()


def test_labels_belong_to_their_images():
    for batch in stream(sample_source(), NOTHING).batches(0, 6):
        assert (batch.images[:, 16, 16, 0] % 3 == batch.labels).all()


def test_without_augmentation_training_sees_what_evaluation_sees():
    source = sample_source()
    batch = next(stream(source).batches(0, 1))
    index = int(permutation(5, 0, 23)[0])
    assert np.array_equal(batch.images[0].numpy(), PREPROCESS.resized(decode(source.read(index))))


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named_and_replaced(memory, workers):
    bad = (3, 4, 20)
    training = stream(sample_source(bad=bad), workers=workers, memory=memory)
    batches = list(training.batches(0, 6))  # two epochs
    assert sorted(training.unreadable) == sorted((f"sample{index}", "unsupported_format") for index in bad)
    counts = Counter(sample_ids(batches)[:23])
    assert not set(bad) & set(counts)
    assert sum(counts.values()) == 23
    assert set(counts) == set(range(23)) - set(bad)
    reported = [entry for batch in batches for entry in batch.unreadable]
    assert sorted(reported) == ([] if memory is None else sorted(training.unreadable))


def test_too_many_unreadable_images():
    source = sample_source(bad=(3, 4, 20))
    expected = r"3 of 23 training images cannot be read \(13.0%, allowed are 1.0%\), the first: sample3 \(unsupp"
    with pytest.raises(DataError, match=expected) as caught:
        stream(source, max_bad=0.01)
    assert "max_bad" in caught.value.hint
    with pytest.raises(DataError, match="cannot be read"):
        list(stream(source, max_bad=0.01, memory=0).batches(0, 6))
    with pytest.raises(DataError, match="None of the training images can be read"):
        list(stream(sample_source(4, bad=range(4)), max_bad=1, memory=0, workers=1).batches(0, 2))
    with pytest.raises(DataError, match="no training images"):
        stream(source.subset([]))


def test_memory_is_bounded():
    source = sample_source(40, size=(50, 50))
    needed = 40 * 50 * 50 * 3

    def load(index):
        return read_image(source, index, ImageLimits())

    assert decode_all(source, load, 2, needed - 1) is None
    decoded = decode_all(source, load, 2, needed)
    assert decoded.pixels.nbytes == needed
    assert all(np.array_equal(decoded[index], decode(source.read(index))) for index in range(40))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_of_any_length_starts_at_once(workers):
    training = stream(sample_source(), workers=workers)
    tracemalloc.start()
    batches = training.batches(10**6, 2 * 10**6)
    first = next(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batches.close()
    assert first.step == 10**6
    assert peak < 5_000_000  # a list of the steps would be 8 bytes each, and 28 for its number


def test_a_killed_worker_is_an_error_and_not_a_hang():
    training = stream(sample_source(), MUCH, 1)
    batches = training.batches(0, 10_000)
    next(batches)
    import multiprocessing

    multiprocessing.active_children()[0].kill()
    with pytest.raises(ResourceError, match=r"died at step \d+ \(exit code -9\)"):
        list(batches)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are there on Linux only")
def test_a_worker_that_hangs_is_an_error_and_gone(monkeypatch):
    import multiprocessing

    batches = stream(sample_source(), MUCH, 1).batches(0, 10_000)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGSTOP)
    monkeypatch.setattr("coatnet.data.workers._TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("coatnet.data.workers._GOODBYE_SECONDS", 0.1)
    with pytest.raises(ResourceError, match=r"has not answered for 0.5 s, at step \d+"):
        list(batches)
    assert not multiprocessing.active_children()


def test_workers_end_with_the_stream():
    import multiprocessing

    batches = stream(sample_source(), NOTHING, 2).batches(0, 10_000)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 10, 97, 200])
def test_evaluation_sees_each_of_97_images_once(workers, batch_size):
    bad = {0, 13, 96}
    source = sample_source(97, bad)
    batches = list(evaluation_batches(source, PREPROCESS, batch_size, workers))
    indices = np.concatenate([batch.indices for batch in batches])
    errors = {index: error for batch in batches for index, error in batch.errors.items()}
    assert indices.tolist() == [index for index in range(97) if index not in bad]
    assert set(errors) == bad
    assert str(errors[13]).startswith("sample13: unsupported_format")
    assert len(batches) == -(-97 // batch_size)
    for batch in batches:
        assert batch.images.shape == (len(batch.indices), 32, 32, 3)
        assert (batch.images[:, 16, 16, 0] == batch.indices).all()
        assert (batch.labels == batch.indices % 3).all()


def test_evaluation_reads_only_a_few_batches_ahead_and_ends_its_threads():
    class Counting(BytesSource):
        num_read = 0

        def read(self, index, limits=ImageLimits()):  # noqa: B008
            Counting.num_read += 1
            return super().read(index, limits)

    plain = sample_source(97)
    source = Counting(plain.class_names, plain.labels, plain.names, plain.files)
    threads = threading.active_count()
    batches = evaluation_batches(source, PREPROCESS, 4, 2)
    next(batches)
    batches.close()
    assert Counting.num_read <= 12
    assert threading.active_count() == threads


def test_evaluation_works_where_torch_cannot_be_imported():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from coatnet.data.loader import evaluation_batches
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig, open_data
source = open_data(DataConfig(path="digits")).val
assert sum(len(batch.indices) for batch in evaluation_batches(source, Preprocess(image_size=32), 50)) == len(source)
"""
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_augmentation_is_drawn_anew_for_every_position():
    plain = sample_source(1, size=(32, 32))
    images = [
        image.numpy().tobytes()
        for batch in stream(plain, AugmentationConfig(rotation=30)).batches(0, 4)
        for image in batch.images
    ]
    assert len(set(images)) == 32


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), 9)"])
def test_workers_are_gone_when_the_process_is(ending):
    code = f"""
import multiprocessing, os
from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.loader import TrainingStream
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig, open_data
source = open_data(DataConfig(path="digits")).val
stream = TrainingStream(
    source, Preprocess(image_size=32), AugmentationConfig(), seed=0, batch_size=4, workers=2
)
batches = stream.batches(0, 1000)  # never closed
next(batches)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
{ending}
"""
    # The output is a pipe that the workers inherit: `run` returns when the last of them is gone.
    finished = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert finished.returncode == (0 if ending == "pass" else -9)
    assert len(finished.stdout.split()) == 2
