"""Data sets of the Hugging Face hub by name, as hf:beans or hf:OWNER/NAME, through the library `datasets`. No torch.

Once downloaded, a data set is read from the library's cache and the hub is not asked again, so that a resumed run sees
the same images. HF_HOME, HF_DATASETS_CACHE, HF_HUB_OFFLINE and HF_TOKEN hold.
"""

import importlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coatnet.data.folders import Found
from coatnet.data.samples import ArrowColumn, ArrowSource, Source, printable, some
from coatnet.data.split_names import split_of
from coatnet.data.tables import encode_labels, label_values, without_unlabelled_test
from coatnet.errors import DataError, MissingPartError, install_hint

if TYPE_CHECKING:
    import datasets

PREFIX = "hf:"
"""What tells a data set of the hub from a path."""
# What the hub allows; no path, for the library would take a folder of that name instead.
_NAME = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_ANSWER_SECONDS = 2.0
# How long the hub may take to answer at all; a download takes as long as it takes.


def is_hub_set(path: str) -> bool:
    """Whether this names a data set of the hub."""
    return path.startswith(PREFIX)


def read_hub_set(path: str, image_column: str, label_column: str) -> Found:
    """A data set of the hub.

    Args:
        path: "hf:" and its name.
        image_column: holds the images; where it is not there, the only column of images.
        label_column: holds the labels; where it is not there, the only column of classes.

    Raises:
        MissingPartError: `datasets` is not installed, or the data set is not in the cache and the hub does not answer.
        DataError: there is no such data set, or no such column.
    """
    name = path.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise DataError(
            f"'{printable(path)}' names no data set of the hub; expected {PREFIX}NAME or {PREFIX}OWNER/NAME.",
            f"Look the name up on the hub; a folder is given without {PREFIX}",
        )
    splits = _load(name)
    first = next(iter(splits.values()))
    image, label = _column(path, first, image_column, "Image"), _column(path, first, label_column, "ClassLabel")
    parts: dict[str, str] = {}
    for split in splits:
        part = split_of(split)
        if part and (part not in parts or split == part):
            parts[part] = split
    notes = [f"Split '{split}' of {path} is not used." for split in splits if split not in parts.values()]
    if not parts:
        raise DataError(f"{path} has the splits {some(list(splits))}, none called train, validation or test.")
    values = {part: label_values([splits[split].data.column(label)], Path(name)) for part, split in parts.items()}
    values, unlabelled = without_unlabelled_test(values)
    names = getattr(first.features[label], "names", None)
    class_names, labels = encode_labels(values, tuple(names) if names else None)
    sources: dict[str, Source] = {}
    for part in values:
        images = splits[parts[part]].data.column(image)
        sample_names = [f"{name}/{parts[part]}/{row:06d}" for row in range(len(images))]
        column = ArrowColumn(images.chunks, Path())
        sources[part] = ArrowSource(class_names, labels[part], sample_names, [column])
    return Found(sources, (*notes, *unlabelled))


def _load(name: str) -> "Mapping[str, datasets.Dataset]":
    """The splits, images as the bytes of their files: from the cache, else downloaded into it."""
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        raise MissingPartError(
            f"{PREFIX}{name} needs the library datasets, which is not installed", install_hint("hub-data")
        ) from None
    library.logging.set_verbosity_error()
    forbidden = library.config.HF_HUB_OFFLINE
    try:
        with _offline(library.config):
            return _splits(library, name)
    except ConnectionError:
        if forbidden:
            raise _missing(library, name, "HF_HUB_OFFLINE forbids to ask the hub") from None
    _ask(library, name)
    try:
        return _splits(library, name)
    except ConnectionError as error:
        raise _missing(library, name, _line(error)) from None


def _splits(library: Any, name: str) -> "Mapping[str, datasets.Dataset]":
    try:
        found: Mapping[str, datasets.Dataset] = library.load_dataset(name)
    except ConnectionError:
        raise
    except (ValueError, RuntimeError, OSError) as error:  # several configurations, a script, files that are no data set
        raise DataError(
            f"{PREFIX}{name} cannot be opened: {_line(error)}",
            "download it, and give a folder of images or of Parquet files",
        ) from None
    return found


@contextmanager
def _offline(config: Any) -> Iterator[None]:
    """The library asks no network in this context."""
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _ask(library: Any, name: str) -> None:
    """See that the hub answers and has the data set. In a thread, because looking up a name knows no time limit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().dataset_info(name, timeout=_ANSWER_SECONDS)
            answers.append(None)
        except Exception as error:  # no network, a proxy's page, a certificate: all mean the same here
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    if not answers:
        raise _missing(library, name, f"the hub does not answer within {_ANSWER_SECONDS:g} s")
    if isinstance(answers[0], RepositoryNotFoundError | HFValidationError):
        raise DataError(f"There is no data set {name} on the hub, or it is not public.", "Check the name, or log in.")
    if answers[0] is not None:
        raise _missing(library, name, f"the hub does not give it ({_line(answers[0])})")


def _column(path: str, split: "datasets.Dataset", wanted: str, kind: str) -> str:
    """The column of this name, else the only one of this kind."""
    alike = [column for column, feature in split.features.items() if type(feature).__name__ == kind]
    if wanted in split.features or len(alike) == 1:
        return wanted if wanted in split.features else alike[0]
    raise DataError(
        f"{path} has no column '{wanted}'; it has {some(list(split.features), 20)}.",
        "Say which columns to use with image_column and label_column.",
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _missing(library: Any, name: str, reason: str) -> MissingPartError:
    return MissingPartError(
        f"the data set {name} is not in {library.config.HF_DATASETS_CACHE}, and {reason}",
        "connect to the network once, or copy the cache of a machine that has it",
    )
