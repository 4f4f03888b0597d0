"""One classifier in many threads, copies, pickles and forked processes; several that are loaded at once."""

import copy
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from coatnet.classifier import Classifier, conversions
from coatnet.classifier.folder import UNFINISHED_SECONDS, replace_folder, unfinished_folder
from coatnet.errors import ConfigError, ModelFileError
from coatnet.export.export import export
from coatnet.quiet import ignore_warnings

RUNTIMES = (
    "torch",
    "onnx",
    "openvino",
    "exported",
    # torch warns of what it compiles with
    pytest.param("compiled", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]),
)
THREADS = 8


@pytest.fixture(scope="module")
def folder(tiny_classifier, tmp_path_factory) -> Path:
    """The tiny classifier, with its conversions once they are made."""
    return shutil.copytree(tiny_classifier, tmp_path_factory.mktemp("shared") / "classifier")


@pytest.fixture
def open_in(folder):
    def open_in(runtime: str) -> Classifier:
        if runtime != "exported":
            return Classifier.load(folder, "cpu" if runtime == "torch" else "auto", runtime=runtime)
        place = folder.parent / "exported"
        if not place.exists():
            export(Classifier.load(folder, "cpu"), place, "torch")
        return Classifier.load(place)

    return open_in


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (THREADS, 40, 48, 3), np.uint8)


def at_once(*actions) -> list[BaseException]:
    """Run each in a thread of its own, started together, and give back what they raised."""
    start, errors = threading.Barrier(len(actions)), []

    def run(action):
        start.wait()
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_thread_gets_the_answers_to_its_own_images(runtime, count, open_in, images):
    expected = open_in(runtime).predict(list(images))
    assert len({answer.probability for answer in expected}) == THREADS  # each image can be told by its answer
    classifier, wrong = open_in(runtime), Counter()  # another one: the threads also make its first calls

    def ask(number):
        for turn in range(count):
            batch = [images[number]] * (8 if turn % 4 == 3 else 1)  # both sizes that engines compile for
            for found in classifier.predict(batch):
                if abs(found.probability - expected[number].probability) > 1e-4:
                    wrong[number] += 1

    assert not at_once(*(lambda number=number: ask(number) for number in range(THREADS)))
    assert not wrong


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_threads_that_load_at_once_convert_once(runtime, folder, tmp_path, images, monkeypatch):
    place = shutil.copytree(folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("converted"))
    expected = Classifier.load(place, "cpu").logits(images)
    made, honest = [], conversions.write_artefact
    monkeypatch.setattr(conversions, "write_artefact", lambda *words: made.append(words) or honest(*words))
    found = []
    assert not at_once(*[lambda: found.append(Classifier.load(place, runtime=runtime).logits(images))] * 3)
    assert len(made) == 1
    for logits in found:
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert len(list((place / "converted").iterdir())) == 1


def test_two_forms_are_converted_at_once_and_torch_computes_meanwhile(folder, tmp_path, images):
    place = shutil.copytree(folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("converted"))
    exact = Classifier.load(place, "cpu")
    expected = exact.logits(images)
    done = threading.Event()
    filters, stdout = list(warnings.filters), sys.stdout

    def compute():
        while not done.is_set():
            np.testing.assert_allclose(exact.logits(images), expected, atol=1e-4)
            exact.predict(list(images[:2]))

    def convert():
        try:
            errors = at_once(
                lambda: Classifier.load(place, runtime="onnx"), lambda: Classifier.load(place, runtime="openvino")
            )
            assert not errors
        finally:
            done.set()

    assert not at_once(compute, convert)
    assert list(warnings.filters) == filters
    assert sys.stdout is stdout


def load_in_a_process(place, expected, images, answers):
    try:
        found = Classifier.load(place, runtime="openvino").logits(images)
        answers.put(float(np.abs(found - expected).max()))
    except BaseException as error:
        answers.put(repr(error))


@pytest.mark.slow
def test_processes_that_load_at_once(folder, tmp_path, images):
    place = shutil.copytree(folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("converted"))
    expected = Classifier.load(place, "cpu").logits(images)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    words = (place, expected, images, answers)
    processes = [context.Process(target=load_in_a_process, args=words) for _ in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    assert all(isinstance(one, float) and one < 1e-4 for one in found), found
    assert len(list((place / "converted").iterdir())) == 1


def test_what_another_process_finished_stays(folder, tmp_path, monkeypatch):
    place = shutil.copytree(folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("converted"))
    Classifier.load(place, runtime="onnx")
    (theirs,) = (place / "converted").iterdir()
    theirs.rename(tmp_path / "theirs")
    honest = conversions.write_artefact

    def overtaken(*words):
        made = honest(*words)
        (tmp_path / "theirs").rename(theirs)
        return made

    monkeypatch.setattr(conversions, "write_artefact", overtaken)
    inode = (tmp_path / "theirs").stat().st_ino
    Classifier.load(place, runtime="onnx")
    assert [one.stat().st_ino for one in (place / "converted").iterdir()] == [inode]


def test_folders_that_are_replaced_at_once_are_whole(tmp_path):
    place = tmp_path / "place"

    def write(number):
        def fill(fresh):
            for part in range(5):
                (fresh / str(part)).write_text(str(number))
                time.sleep(0)

        for _ in range(20):
            replace_folder(place, fill, own="01234")

    assert not at_once(*(lambda number=number: write(number) for number in range(4)))
    assert len({(place / str(part)).read_text() for part in range(5)}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_filters_of_warnings_come_back_whoever_ends_first():
    filters = list(warnings.filters)
    first, second = ignore_warnings("one"), ignore_warnings()
    first.__enter__()
    second.__enter__()
    warnings.warn("not an error now", UserWarning, stacklevel=1)
    first.__exit__(None, None, None)
    warnings.warn("nor now", UserWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert list(warnings.filters) == filters


# --- forked processes ------------------------------------------------------------------------------------------------


def in_a_fork(action) -> int:
    """The exit status of a forked process: 0 if `action` ended well, 3 if the process was refused, 14 if it hung."""
    import signal

    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            action()
        except ConfigError as error:
            os._exit(3 if "forked" in error.message and "spawn" in error.hint else 4)
        except BaseException:
            os._exit(5)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else os.WTERMSIG(status)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("runtime", ["torch", "exported"])
def test_torch_is_refused_where_it_would_hang(runtime, open_in, folder, images, two_threads):
    classifier = open_in(runtime)
    expected = classifier.logits(images)
    assert in_a_fork(lambda: classifier.predict(list(images))) == 3
    assert in_a_fork(lambda: open_in(runtime)) == 3

    def with_one_thread():
        torch.set_num_threads(1)
        np.testing.assert_allclose(classifier.logits(images), expected, atol=1e-4)

    assert in_a_fork(with_one_thread) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_other_runtimes_work_in_a_fork(runtime, open_in, images, two_threads):
    classifier = open_in(runtime)
    expected = classifier.logits(images)

    def ask(one):
        np.testing.assert_allclose(one.logits(images), expected, atol=1e-4)

    assert in_a_fork(lambda: ask(classifier)) == 0
    # OpenVINO would wait for its parent's threads when it compiles.
    assert in_a_fork(lambda: ask(open_in(runtime))) == (3 if runtime == "openvino" else 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_openvino_in_a_fork_does_without_what_is_not_compiled(open_in, images):
    expected = open_in("openvino").logits(images)
    classifier = open_in("openvino")  # compiled for its proof, one image
    assert in_a_fork(lambda: np.testing.assert_allclose(classifier.logits(images), expected, atol=1e-4)) == 0


# --- copies and pickles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_copies_and_pickles_give_the_same_logits(runtime, open_in, images):
    classifier = open_in(runtime)
    expected = classifier.logits(images)
    for other in (copy.copy(classifier), copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_allclose(other.logits(images), expected, atol=1e-5)
        assert other.class_names == classifier.class_names
        assert other.engine.description == classifier.engine.description


def test_a_pickle_of_a_file_that_changed_is_refused(open_in, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("converted"))
    classifier = Classifier.load(place, runtime="onnx")
    pickled = pickle.dumps(classifier)
    (file,) = place.rglob("*.onnx")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ModelFileError, match="missing or has changed"):
        pickle.loads(pickled)
    with pytest.raises(ModelFileError, match="cannot be pickled"):
        pickle.dumps(classifier)


# --- temporary folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder of temporary files, to see what is left in it."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_nothing_is_left_among_the_temporary_files(runtime, folder, tmp_path, temporary, images):
    expected = Classifier.load(folder, "cpu").logits(images)
    place = shutil.copytree(folder, tmp_path / "classifier", ignore=shutil.ignore_patterns("converted"))
    Classifier.load(place, runtime=runtime).predict(list(images))
    assert not list(temporary.iterdir())
    shutil.rmtree(place / "converted")
    (place / "converted").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "converted"))  # no folder can be made in either place
        classifier = Classifier.load(place, runtime=runtime)
    assert not list(temporary.iterdir())
    np.testing.assert_allclose(classifier.logits(images), expected, atol=1e-4)
    with pytest.raises(ModelFileError, match="cannot be pickled"):
        pickle.dumps(classifier)


def test_an_unfinished_folder_is_removed_after_an_error_and_after_a_day(tmp_path):
    place = tmp_path / "place"
    killed, running = (tmp_path / f".place.{name}.unfinished" for name in ("killed", "running"))
    for path in (killed, running):
        path.mkdir()
    long_ago = time.time() - UNFINISHED_SECONDS - 1
    os.utime(killed, (long_ago, long_ago))
    with pytest.raises(KeyboardInterrupt), unfinished_folder(place):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [running]
