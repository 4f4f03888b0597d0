"""Networks converted for this machine, kept beside the classifier: the first start converts, the second reads.

A conversion is an artefact folder, `converted/FORM-SIZE-KEY` in the classifier folder, or in the user's cache folder
where that cannot be written. The key is made of the content: the fingerprint, which holds the checksums of all
files of the classifier, and the versions of what converted it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from coatnet.classifier.artefact import About, Artefact, Kind, move_into_place, write_artefact
from coatnet.classifier.folder import CONVERTED, Contents, FingerprintRecord
from coatnet.data.preprocess import Preprocess
from coatnet.data.user_cache import cache_folder
from coatnet.errors import ModelFileError
from coatnet.version import __version__

if TYPE_CHECKING:
    from torch import nn

PACKAGES: dict[Kind, str] = {"onnx": "onnxscript", "openvino": "openvino", "torch": "torch"}
"""What writes each form: another version may write it otherwise."""


def converted(
    folder: Path,
    kind: Kind,
    contents: Contents,
    preprocess: Preprocess,
    build: Callable[[], nn.Module],
) -> Artefact:
    """The artefact of a classifier folder for one form and size, from the cache or made now.

    Args:
        folder: the classifier folder, proved.
        kind: the form.
        contents: what the folder says.
        preprocess: its preprocessing, for the size that is wanted.
        build: gives the network, proved; only called to convert, as this imports torch.

    Raises:
        MissingPartError: a package that writes the form is not installed.
        QualityError: the converted network gives other logits.
    """
    size = "x".join(str(side) for side in preprocess.image_size)
    name = f"{kind}-{size}-{_key(kind, preprocess, contents.fingerprint)}"
    places = (folder / CONVERTED, cache_folder(CONVERTED))
    for place in places:
        with contextlib.suppress(ModelFileError, OSError):  # a damaged conversion is made again
            return Artefact.read(place / name)
    place = next((place for place in places if _writable(place)), Path(tempfile.mkdtemp(prefix="coatnet-")))
    fresh = place / f".{name}.{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        about = About(preprocess, contents.labels, contents.fingerprint.sha256, (preprocess.image_size,))
        write_artefact(fresh, build(), kind, about)
        if place == places[0]:  # what was made of weights that are here no more
            for stale in place.glob(f"{kind}-{size}-*"):
                shutil.rmtree(stale, ignore_errors=True)
        shutil.rmtree(place / name, ignore_errors=True)
        move_into_place(fresh, place / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Artefact.read(place / name)


def _key(kind: Kind, preprocess: Preprocess, fingerprint: FingerprintRecord) -> str:
    made_of = {
        "classifier": fingerprint.model_dump(mode="json"),
        "preprocess": preprocess.model_dump(mode="json"),
        "coatnet": __version__,
        PACKAGES[kind]: importlib.metadata.version(PACKAGES[kind]),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _writable(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False
