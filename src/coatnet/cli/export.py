"""`coatnet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from coatnet.classifier.artefact import Kind
from coatnet.cli import runs
from coatnet.cli.flags import parse_size
from coatnet.cli.printing import show_json
from coatnet.cli.score_tables import show_exported
from coatnet.errors import ConfigError


def export(  # noqa: PLR0913 (flags)
    classifier: str,
    /,
    *,
    format: Kind,
    out: Path | None = None,
    image_size: Annotated[list[str] | None, Parameter(metavar="SIZE")] = None,
    data: str | None = None,
    pixels: Annotated[bool, Parameter(negative=())] = False,
    int8: Annotated[bool, Parameter(negative=())] = False,
    max_drop: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a classifier for another runtime: network, preprocessing, class names and a proof in one folder.

    The answers are compared with torch's on images before anything is written; if they differ, the exit code is 6.
    predict, evaluate and Classifier.load take the folder, without torch for onnx and openvino. Its batch has any size.

    Args:
        classifier: a run folder, a classifier folder, or published weights as timm/NAME.TAG.
        format: onnx for ONNX Runtime, openvino for OpenVINO, torch for torch.export.
        out: the folder to write; default: exports/NAME-FORMAT.
        image_size: size of the input, as 96, or 96x128 for height x width in pixels; several for one network each;
            default: the size it was trained at.
        data: images to compare answers on, what `coatnet train` takes; a run knows its own. Else they are made up.
        pixels: write a graph from uint8 pixels to probabilities as well, for programs without coatnet.
        int8: quantize for OpenVINO, calibrated and tested on the data.
        max_drop: points of accuracy that int8 may lose; default: 1.
        json: print one object instead of lines.
    """
    from coatnet.export.export import export as write

    if max_drop is not None and not int8:
        raise ConfigError("--max-drop is for --int8", "leave it out, or add --int8")
    sizes = [parse_size(size) for size in image_size or ()]
    loaded = runs.open_classifier(classifier, "cpu")
    place = Path(classifier)
    name = place.resolve().name if place.exists() else classifier.rpartition("/")[2]
    quantization = runs.quantization_of(place, data, max_drop) if int8 else None
    sample = runs.sample_of(place, data) if data is not None or place.exists() else None
    done = write(
        loaded,
        (out or Path("exports") / f"{name}-{format}{'-int8' if int8 else ''}").expanduser(),
        format,
        sizes=sizes,
        images=sample.images if sample else (),
        pixels=pixels,
        int8=quantization,
        source=runs.weights_of(place),
        licence=runs.find_licence(classifier),
    )
    show_json(done.as_dict()) if json else show_exported(done)
