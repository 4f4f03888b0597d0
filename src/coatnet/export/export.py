"""`export`: a classifier becomes an artefact folder, and only if it gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier import Classifier
from coatnet.classifier.artefact import About, Artefact, Kind, engine_of, finish_artefact, is_artefact, write_artefact
from coatnet.classifier.card import artefact_card
from coatnet.classifier.fingerprint import fingerprint_image
from coatnet.classifier.folder import CARD, replace_folder
from coatnet.classifier.opening import resized
from coatnet.errors import ConfigError, ModelFileError, QualityError
from coatnet.export.pixels import write_pixels
from coatnet.export.quantization import Int8, quantize
from coatnet.runtime.agreement import Agreement, compare
from coatnet.runtime.engines import TorchEngine

GENERATED_IMAGES = 16
"""Images that are made up where the user gives none."""
BATCH_SIZE = 16

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was proved."""

    folder: Path
    kind: Kind
    sizes: tuple[tuple[int, int], ...]
    agreements: tuple[Agreement, ...]
    """The comparison with torch in float32, for each size."""
    generated: bool
    """Whether the images of the comparison were made up."""
    bfloat16_error: float | None
    """Relative error of the logits in bfloat16, which runs where the CPU has it; None where it was not measured."""
    drop: float | None
    """Points of accuracy that int8 loses on the data, None for float32."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; rates are fractions, `drop` is in points."""
        return {
            "folder": str(self.folder),
            "format": self.kind,
            "sizes": [list(size) for size in self.sizes],
            "agreements": [agreement._asdict() for agreement in self.agreements],
            "generated_images": self.generated,
            "bfloat16_error": self.bfloat16_error,
            "drop": self.drop,
        }


def export(  # noqa: PLR0913 (options are keywords)
    classifier: Classifier,
    folder: Path,
    kind: Kind,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    images: Sequence[Image] = (),
    pixels: bool = False,
    int8: Int8 | None = None,
    source: str = "",
    licence: str = "",
) -> Exported:
    """Write an artefact folder.

    Args:
        classifier: what is exported; it runs in torch.
        folder: its place: nothing, an empty folder or an artefact, which is replaced.
        kind: the form.
        sizes: heights and widths of the input, the first being the usual one; default: the classifier's.
        images: (H, W, 3) RGB of any sizes, on which the answers are compared; default: generated ones.
        pixels: write a graph from uint8 pixels to probabilities as well, for programs without coatnet.
        int8: quantize; only for OpenVINO.
        source: sha256 of the weights, stored to tell where the artefact comes from.
        licence: of the weights, stored in the files of the networks.

    Raises:
        ConfigError: these options do not go together, or the folder holds other things.
        MissingPartError: a package that writes the form is not installed.
        QualityError: the exported network does not give the same answers, or int8 loses too much.
    """
    engine = classifier.engine
    if not isinstance(engine, TorchEngine):
        raise ConfigError(f"the classifier runs in {engine.description}; only torch's network can be exported")
    if int8 is not None and kind != "openvino":
        raise ConfigError(f"int8 is written for OpenVINO, not for {kind}", "take --format openvino")
    if int8 is not None and (len(sizes) > 1 or pixels):
        raise ConfigError("int8 is for one size, without a graph from pixels", "leave the other options out")
    chosen = tuple(sizes) or (classifier.preprocess.image_size,)
    for size in chosen:
        resized(classifier.preprocess, size)
    about = About(classifier.preprocess, classifier.class_names, source, chosen, licence)
    done: list[Exported] = []

    def write(fresh: Path) -> None:
        drop: float | None = None
        agreements: tuple[Agreement, ...] = ()
        (fresh / CARD).write_text(artefact_card(kind, classifier.class_names, chosen, pixels), encoding="utf-8")
        if pixels:
            write_pixels(fresh, classifier, kind, about)
        if int8 is None:
            artefact = write_artefact(fresh, engine.model, kind, about)
            agreements = tuple(_proved(classifier, artefact, size, images or _generated()) for size in chosen)
        else:
            drop = quantize(fresh, classifier, chosen[0], int8, about.facts(chosen[0]))
            artefact = finish_artefact(fresh, engine.model, kind, about, int8=True)
        _open_again(fresh)
        error = artefact.record.bfloat16_error
        done.append(Exported(folder, kind, chosen, agreements, not len(images), error, drop))

    own = {entry.name for entry in folder.iterdir()} if is_artefact(folder) else set()
    replace_folder(folder.absolute(), write, own)
    return done[0]


def _open_again(folder: Path) -> None:
    """Read what was written as whoever gets it will, in every precision that this machine has.

    Raises:
        QualityError: it would be refused.
    """
    try:
        artefact = Artefact.read(folder)
        for network in artefact.record.networks:
            for precision in artefact.precisions():
                artefact.engine(network.image_size, precision)
    except ModelFileError as error:
        raise QualityError(
            f"the exported network would be refused: {error.message}",
            "nothing was written; report it with the config.json of this network",
        ) from None


def _proved(classifier: Classifier, artefact: Artefact, size: tuple[int, int], images: Sequence[Image]) -> Agreement:
    """Compare the answers for images, in float32.

    Raises:
        QualityError: they are not the same.
    """
    preprocess = classifier.preprocess.replace(image_size=size)
    file = next(network.file for network in artefact.record.networks if network.image_size == size)
    assert isinstance(classifier.engine, TorchEngine)
    exact = TorchEngine(classifier.engine.model, "cpu")
    found = engine_of(artefact.record.kind, artefact.folder / file)
    pairs = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = np.stack([preprocess(image) for image in images[start : start + BATCH_SIZE]])
        pairs.append((exact.logits(batch), found.logits(batch)))
    agreement = compare(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    if not agreement.is_exact:
        raise QualityError(
            f"the exported network does not give the same answers for {agreement.images} images: logits differ by "
            f"{agreement.largest_difference:.1e}, the same top-1 for {agreement.same_top1:.1%}",
            "nothing was written; report it with the config.json of this network",
        )
    return agreement


def _generated() -> list[Image]:
    """The fixed image of the fingerprint, moved and turned: what a user's images are compared on if there are none."""
    image = fingerprint_image()
    return [np.rot90(np.roll(image, (17 * index, 31 * index), (0, 1)), index % 4) for index in range(GENERATED_IMAGES)]
