"""The artefact folder: a network in another runtime's form with its preprocessing, class names and fingerprint.

    artefact.json       form, sizes, the files of the network and their sha256
    224x224.onnx        the network for each size; .xml and .bin for OpenVINO, .pt2 for torch
    pixels-224x224.onnx a graph from pixels to probabilities, for programs without coatnet; where it was asked for
    preprocess.json labels.json fingerprint.json README.md      as in a classifier folder

What `coatnet export` writes, and what the cache of converted networks holds. Reading one imports no torch, unless the
network is torch's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from coatnet.classifier.facts import facts_of
from coatnet.classifier.fingerprint import check_fingerprint, fingerprint_image, take_fingerprint
from coatnet.classifier.folder import FingerprintRecord, LabelsRecord, parse, sha256, write
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, ModelFileError, QualityError
from coatnet.frozen import Frozen
from coatnet.runtime.agreement import BFLOAT16_LIMIT, compare
from coatnet.runtime.engines import Engine, Precision, TorchEngine
from coatnet.runtime.file_engine import files_beside
from coatnet.version import __version__

if TYPE_CHECKING:
    from torch import nn

RECORD = "artefact.json"
JSON_FILES = (RECORD, "preprocess.json", "labels.json", "fingerprint.json")
FORMAT = 1
ROUNDED_TOLERANCE = 0.5
"""Largest difference of the fingerprint's logits, in their standard deviations, for a network in bfloat16 or int8, from
those that it had itself when it was made, perhaps on another CPU. Other weights differ by 4 (see `fingerprint.py`)."""
CHECKED_IMAGES = 8
"""Generated images on which a converted network is compared with the one that it was made of."""

GRAPH_FILES = re.compile(r"(pixels-)?[0-9]+x[0-9]+\.(onnx|onnx\.data|xml|bin|pt2)")
"""The files of networks and of graphs from pixels."""

Kind = Literal["onnx", "openvino", "torch"]
AskedPrecision = Literal["auto", "float32", "bfloat16"]


class NetworkRecord(Frozen):
    """The network for one size."""

    image_size: tuple[int, int]
    """Height and width in pixels."""
    file: str = Field(pattern=r"^[0-9]+x[0-9]+\.(onnx|xml|pt2)$")
    """The file that the runtime opens."""


class ArtefactRecord(Frozen):
    """artefact.json."""

    format: int = FORMAT
    coatnet: str = __version__
    """Version that wrote the folder; only told."""
    kind: Kind
    """Whose form it is."""
    networks: tuple[NetworkRecord, ...] = Field(min_length=1)
    """One for each size; the first one's is that of preprocess.json."""
    int8: bool = False
    """Whether weights and activations are quantized."""
    bfloat16_error: float | None = Field(None, ge=0)
    """Relative error of the logits in bfloat16 on generated images, where it was measured."""
    bfloat16_logits: tuple[float, ...] | None = None
    """What the first network says of the fixed image of the fingerprint in bfloat16, where it was asked."""
    files: dict[str, str]
    """sha256 of every file beside the JSON files, as it was written."""


@dataclass(frozen=True)
class About:
    """What goes with a network into its artefact."""

    preprocess: Preprocess
    labels: tuple[str, ...]
    source: str
    """sha256 of the weights."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths that it is converted for; the first is what images are resized to unless asked otherwise."""
    licence: str = ""
    """Of the weights; "" where it is not known."""

    def facts(self, size: tuple[int, int], *, pixels: bool = False) -> dict[str, str]:
        """What the file of the network for one size tells, see `facts_of`."""
        preprocess = self.preprocess.replace(image_size=size)
        return facts_of(preprocess, self.labels, self.source, self.licence, pixels=pixels)


@dataclass(frozen=True)
class Artefact:
    """What an artefact folder says, proved."""

    folder: Path
    record: ArtefactRecord
    preprocess: Preprocess
    labels: tuple[str, ...]
    fingerprint: FingerprintRecord

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Parse the JSON files, and compare every checksum.

        Raises:
            ModelFileError: a file is missing, damaged, of a newer format or exchanged. Links are followed, as the hub's
                cache has them: what they lead to is proved like any other file.
        """
        fingerprint = parse(_found(folder, JSON_FILES[-1]), FingerprintRecord)
        for name in JSON_FILES[:-1]:
            _prove(folder, name, fingerprint.files.get(name))
        record = parse(folder / RECORD, ArtefactRecord)
        for name in _files_to_prove(folder, record):
            _prove(folder, name, record.files.get(name))
        return cls(
            folder=folder,
            record=record,
            preprocess=parse(folder / "preprocess.json", Preprocess),
            labels=parse(folder / "labels.json", LabelsRecord).labels,
            fingerprint=fingerprint,
        )

    def at_size(self, image_size: tuple[int, int]) -> Preprocess:
        """The preprocessing for one of the sizes.

        Raises:
            ConfigError: it is none of them.
        """
        sizes = [network.image_size for network in self.record.networks]
        if image_size not in sizes:
            listed = ", ".join(f"{height}x{width}" for height, width in sizes)
            raise ConfigError(
                f"image_size {image_size[0]}x{image_size[1]}: {self.folder} was exported for {listed}",
                "export it for this size as well: coatnet export --image-size",
            )
        return self.preprocess.replace(image_size=image_size)

    def engine(self, image_size: tuple[int, int], precision: AskedPrecision = "auto") -> Engine:
        """The engine for one of the sizes. `auto` takes bfloat16 where the CPU has it and the error was found small; in
        an int8 network it is the precision of what is not quantized.

        Raises:
            ConfigError: the runtime does not compute in this precision.
            MissingPartError: the runtime is not installed, or this CPU has no bfloat16.
            ModelFileError: the runtime refuses the file, or its logits are not those of the fingerprint.
        """
        file = next(network.file for network in self.record.networks if network.image_size == image_size)
        engine, chosen = _open(self, self.folder / file, precision)
        if image_size == self.preprocess.image_size:
            stored, limits = self.fingerprint, {}
            if chosen == "bfloat16" and self.record.bfloat16_logits is not None:
                stored = stored.replace(logits=self.record.bfloat16_logits)
            if chosen == "bfloat16" or self.record.int8:
                limits = {"logit_tolerance": ROUNDED_TOLERANCE}
            found = take_fingerprint(self.fingerprint.sha256, engine, self.preprocess)
            check_fingerprint(self.folder, stored, found, self.preprocess, **limits)
        return engine

    def precisions(self) -> tuple[Precision, ...]:
        """The precisions in which this machine can run the networks."""
        from coatnet.runtime.openvino_engine import has_bfloat16

        return ("float32", "bfloat16") if self.record.kind == "openvino" and has_bfloat16() else ("float32",)


def is_artefact(path: Path) -> bool:
    """Whether this folder is an artefact."""
    return (path / RECORD).is_file()


def write_artefact(folder: Path, model: nn.Module, kind: Kind, about: About) -> Artefact:
    """Convert a network, and prove on generated images that it says the same.

    Args:
        folder: an empty folder.
        model: the network.
        kind: the form.
        about: what goes with it.

    Raises:
        MissingPartError: a package that writes the form is not installed.
        QualityError: the converted network gives other logits.
    """
    from coatnet.runtime.conversion import SUFFIX, convert, inference_form

    for height, width in about.sizes:
        path = folder / f"{height}x{width}{SUFFIX[kind]}"
        facts = about.facts((height, width))
        convert(inference_form(model, (height, width)), kind, (3, height, width), path, facts)
    return finish_artefact(folder, model, kind, about)


def finish_artefact(folder: Path, model: nn.Module, kind: Kind, about: About, *, int8: bool = False) -> Artefact:
    """Write the records beside the files of the networks, and compare each with `model` on generated images. The proof
    is what the network in its new form says.

    Args:
        folder: where the files of the networks are.
        model: what they were made of.
        kind: their form.
        about: what goes with them.
        int8: they are quantized: how far they may differ is measured on data by who quantized them.

    Raises:
        QualityError: a network gives other logits than `model`.
    """
    from coatnet.runtime.conversion import SUFFIX

    preprocess = about.preprocess.replace(image_size=about.sizes[0])
    networks = tuple(
        NetworkRecord(image_size=(height, width), file=f"{height}x{width}{SUFFIX[kind]}")
        for height, width in about.sizes
    )
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.suffix != ".json"}
    record = ArtefactRecord(kind=kind, networks=networks, int8=int8, files=files)
    if not int8:
        record = record.replace(bfloat16_error=_checked(folder, record, TorchEngine(model, "cpu"), preprocess))
    first = folder / networks[0].file
    proof = take_fingerprint(about.source, engine_of(kind, first), preprocess)
    record = record.replace(bfloat16_logits=_bfloat16_logits(kind, first, preprocess))
    write(folder / RECORD, record)
    write(folder / "preprocess.json", preprocess)
    write(folder / "labels.json", LabelsRecord(labels=about.labels))
    proved = {name: sha256(folder / name) for name in JSON_FILES[:-1]}
    write(folder / JSON_FILES[-1], proof.replace(files=proved))
    return Artefact(folder, record, preprocess, about.labels, proof)


def _bfloat16_logits(kind: Kind, path: Path, preprocess: Preprocess) -> tuple[float, ...] | None:
    from coatnet.runtime.openvino_engine import OpenVinoEngine, has_bfloat16

    if kind != "openvino" or not has_bfloat16():
        return None
    return take_fingerprint("", OpenVinoEngine(path, "bfloat16"), preprocess).logits


def generated_images(preprocess: Preprocess, count: int = CHECKED_IMAGES) -> NDArray[np.float32]:
    """Different images made from the fixed one of the fingerprint, (count, 3, H, W) float32: moved, and their channels
    exchanged."""
    image = fingerprint_image()
    moved = [np.roll(image, (29 * index, 43 * index, index), (0, 1, 2)) for index in range(count)]
    return np.stack([preprocess(one) for one in moved])


def _checked(folder: Path, record: ArtefactRecord, exact: Engine, preprocess: Preprocess) -> float | None:
    """Compare with float32; and tell the error of bfloat16, if this CPU has it."""
    from coatnet.runtime.openvino_engine import OpenVinoEngine, has_bfloat16

    worst: float | None = None
    for network in record.networks:
        path = folder / network.file
        images = generated_images(preprocess.replace(image_size=network.image_size))
        reference = exact.logits(images)
        found = compare(reference, engine_of(record.kind, path).logits(images))
        if not found.is_exact:
            raise QualityError(
                f"the converted network differs: logits by {found.largest_difference:.1e}, "
                f"the same top-1 for {found.same_top1:.0%} of {found.images} generated images",
                "report it with the config.json of this network",
            )
        if record.kind == "openvino" and has_bfloat16():
            rounded = compare(reference, OpenVinoEngine(path, "bfloat16").logits(images))
            worst = max(worst or 0.0, rounded.relative_error)
    return worst


def _open(artefact: Artefact, path: Path, precision: AskedPrecision) -> tuple[Engine, Precision]:
    """The engine, and its precision: `auto` takes bfloat16 where it was found good when the artefact was written."""
    record = artefact.record
    if record.kind != "openvino":
        if precision == "bfloat16":
            raise ConfigError(f"precision bfloat16 is not for {record.kind} artefacts", "leave precision out")
        return engine_of(record.kind, path), "float32"
    from coatnet.runtime.openvino_engine import OpenVinoEngine, has_bfloat16

    small = record.bfloat16_error is not None and record.bfloat16_error <= BFLOAT16_LIMIT
    if record.int8:  # what it loses was measured in every precision that this machine has
        small = record.bfloat16_logits is not None
    chosen: Precision = "float32" if precision == "auto" else precision
    if precision == "auto" and small and has_bfloat16():
        chosen = "bfloat16"
    return OpenVinoEngine(path, chosen), chosen


def engine_of(kind: Kind, path: Path) -> Engine:
    """The engine that runs a file of this form, in float32."""
    if kind == "openvino":
        from coatnet.runtime.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(path)
    if kind == "onnx":
        from coatnet.runtime.onnx_engine import OnnxEngine

        return OnnxEngine(path)
    from coatnet.runtime.exported_engine import ExportedEngine

    return ExportedEngine(path)


def _files_to_prove(folder: Path, record: ArtefactRecord) -> Sequence[str]:
    """The files that a runtime opens, and what was written beside them for other programs, if it is still there."""
    needed = [file.name for network in record.networks for file in files_beside(folder / network.file)]
    graphs = [name for name in record.files if GRAPH_FILES.fullmatch(name)]
    return [
        name
        for name in dict.fromkeys((*needed, *graphs))
        if (folder / name).exists() or (name in needed and (name in record.files or not name.endswith(".data")))
    ]


def _found(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ModelFileError(f"{path} is missing.", "Export it again.")
    return path


def _prove(folder: Path, name: str, checksum: str | None) -> None:
    if checksum is None or sha256(_found(folder, name)) != checksum:
        raise ModelFileError(
            f"{folder / name} is damaged or was exchanged: its sha256 is not the stored one.", "Export it again."
        )
