"""Networks converted for this machine, kept beside the classifier: the first start converts, the second reads.

A conversion is an artefact folder, `converted/FORM-SIZE-CONTENT-WRITER` in the classifier folder, or in the user's
cache folder where that cannot be written. CONTENT is made of the fingerprint, which holds the checksums of all files of
the classifier; WRITER of the versions of what converted it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coatnet.classifier.artefact import About, Artefact, AskedPrecision, Kind, write_artefact
from coatnet.classifier.folder import CONVERTED, Contents, unfinished_folder
from coatnet.data.preprocess import Preprocess
from coatnet.data.user_cache import cache_folder
from coatnet.errors import ModelFileError
from coatnet.runtime.engines import Engine
from coatnet.version import __version__

if TYPE_CHECKING:
    from torch import nn

PACKAGES: dict[Kind, str] = {"onnx": "onnxscript", "openvino": "openvino", "torch": "torch"}
"""What writes each form: another version may write it otherwise."""
_CONVERTING = threading.RLock()
"""Held while a thread looks for a conversion and makes it: another one that wants the same then finds it."""


def open_converted(  # noqa: PLR0913 (what one conversion is made of)
    folder: Path,
    kind: Kind,
    contents: Contents,
    preprocess: Preprocess,
    precision: AskedPrecision,
    build: Callable[[], nn.Module],
) -> Engine:
    """The engine of a classifier folder in one form and size, from the cache or converted now.

    Args:
        folder: the classifier folder, proved.
        kind: the form.
        contents: what the folder says.
        preprocess: its preprocessing, for the size that is wanted.
        precision: see `Artefact.engine`.
        build: gives the network, proved; only called to convert, as this imports torch.

    Raises:
        MissingPartError: a package that writes the form is not installed.
        QualityError: the converted network gives other logits.
    """
    about = About(preprocess, contents.labels, contents.fingerprint.sha256, (preprocess.image_size,))
    name = _name(kind, preprocess, contents)
    places = (folder / CONVERTED, cache_folder(CONVERTED))
    with _CONVERTING:
        for place in places:
            with contextlib.suppress(ModelFileError, OSError):  # a damaged conversion is made again
                return Artefact.read(place / name).engine(preprocess.image_size, precision)
        writable = next((place for place in places if _writable(place)), None)
        if writable is not None:
            artefact = _convert(writable / name, build, kind, about)
            if writable == places[0]:
                _remove_stale(artefact.folder)
            return artefact.engine(preprocess.image_size, precision)
        # An open engine needs its files no more, where the system lets them be removed.
        with tempfile.TemporaryDirectory(prefix="coatnet-", ignore_cleanup_errors=True) as temporary:
            return _convert(Path(temporary, name), build, kind, about).engine(preprocess.image_size, precision)


def _convert(folder: Path, build: Callable[[], nn.Module], kind: Kind, about: About) -> Artefact:
    """Convert into a new folder and give it its name. If another process finished first, what it made stays."""
    with unfinished_folder(folder) as fresh:
        write_artefact(fresh, build(), kind, about)
        try:
            os.rename(fresh, folder)
        except OSError:
            with contextlib.suppress(ModelFileError, OSError):
                return Artefact.read(folder)
            with unfinished_folder(folder) as damaged:
                os.rename(folder, damaged / "old")
                os.rename(fresh, folder)
    return Artefact.read(folder)


def _remove_stale(folder: Path) -> None:
    """Remove what was made of a classifier that is here no more. Other versions of coatnet keep what they made."""
    form_and_size, content, _ = folder.name.rsplit("-", 2)
    for other in folder.parent.glob(f"{form_and_size}-*"):
        if not other.name.startswith(f"{form_and_size}-{content}-"):
            shutil.rmtree(other, ignore_errors=True)


def _name(kind: Kind, preprocess: Preprocess, contents: Contents) -> str:
    size = "x".join(str(side) for side in preprocess.image_size)
    content = {
        "classifier": contents.fingerprint.model_dump(mode="json"),
        "preprocess": preprocess.model_dump(mode="json"),
    }
    package = PACKAGES[kind]
    writer = {"coatnet": __version__, package: importlib.metadata.version(package)}
    return f"{kind}-{size}-{_key(content)}-{_key(writer)}"


def _key(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _writable(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False
