"""int8 with NNCF: calibrated on the user's images, the loss of accuracy measured on others, refused if too large."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coatnet.classifier import Classifier
from coatnet.data.sources import Source
from coatnet.errors import ConfigError, MissingPartError, QualityError
from coatnet.evaluation.evaluate import evaluate
from coatnet.runtime.conversion import convert, inference_form, label_openvino
from coatnet.runtime.engines import EXTRA, Precision, TorchEngine
from coatnet.runtime.openvino_engine import OpenVinoEngine, has_bfloat16, import_openvino

CALIBRATION_IMAGES = 300
"""NNCF's own default: ranges of activations settle with fewer."""
DELICATE_TYPES = ("Sigmoid", "Softmax", "ScaledDotProductAttention")
"""Operations whose inputs 256 steps are too few for: gates and attention weights."""


@dataclass(frozen=True)
class Int8:
    """How to quantize."""

    calibration: Source
    """Images whose activations tell the ranges."""
    test: Source
    """Other images, with labels, on which the loss is measured."""
    max_drop: float = 1.0
    """Points of accuracy that may be lost."""


def quantize(folder: Path, classifier: Classifier, size: tuple[int, int], how: Int8, facts: Mapping[str, str]) -> float:
    """Write the quantized network for OpenVINO.

    Args:
        folder: where its files go.
        classifier: what is quantized; it runs in torch.
        size: height and width.
        how: the images, and what may be lost.
        facts: what the file tells of the network.

    Returns:
        The points of accuracy that were lost, in the worst of the precisions in which the rest may run here.

    Raises:
        MissingPartError: NNCF is not installed.
        QualityError: more than `max_drop` points are lost.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import nncf
    except ModuleNotFoundError:
        raise MissingPartError("NNCF is not installed.", EXTRA) from None
    if how.max_drop < 0:
        raise ConfigError(f"max_drop is {how.max_drop}; it must be at least 0.")
    openvino = import_openvino()
    assert isinstance(classifier.engine, TorchEngine)
    preprocess = classifier.preprocess.replace(image_size=size)
    path = folder / f"{size[0]}x{size[1]}.xml"
    convert(inference_form(classifier.engine.model, size), "openvino", (3, *size), path)
    exact = classifier.at_size(size)
    model = openvino.Core().read_model(path)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    chosen = _evenly(len(how.calibration), CALIBRATION_IMAGES)
    items = [preprocess(image)[None] for image in _images(how.calibration, chosen)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        quantized = nncf.quantize(
            model,
            nncf.Dataset(items),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(items),
            ignored_scope=nncf.IgnoredScope(names=_delicate(model), validate=False),
        )
    path.unlink()
    path.with_suffix(".bin").unlink()
    label_openvino(quantized, facts)
    openvino.save_model(quantized, path, compress_to_fp16=False)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if has_bfloat16() else ("float32",)
    rounded = [Classifier(OpenVinoEngine(path, one), preprocess, classifier.class_names) for one in precisions]
    before, after = evaluate(exact, how.test).top1, min(evaluate(one, how.test).top1 for one in rounded)
    drop = 100 * (before - after)
    if drop > how.max_drop:
        raise QualityError(
            f"int8 loses {drop:.2f} points of accuracy, {100 * before:.2f} % to {100 * after:.2f} %; at most "
            f"{how.max_drop:g} are allowed",
            "give more calibration images, allow more by --max-drop, or leave --int8 out",
        )
    return drop


def _delicate(model: Any) -> list[str]:
    """What stays in floating point: gates, softmax, and everything at one place, which is squeeze-and-excitation."""
    names = []
    for node in model.get_ops():
        shape = node.output(0).get_partial_shape() if node.get_output_size() else None
        one_place = shape is not None and len(shape) == 4 and str(shape[2]) == str(shape[3]) == "1"
        gated = node.get_type_name() == "Multiply" and any(
            node.input_value(index).get_node().get_type_name() == "Sigmoid" for index in range(2)
        )
        if node.get_type_name() != "Constant" and (node.get_type_name() in DELICATE_TYPES or one_place or gated):
            names.append(node.get_friendly_name())
    return names


def _evenly(count: int, wanted: int) -> list[int]:
    return [int(place) for place in np.linspace(0, count - 1, min(count, wanted))]


def _images(source: Source, chosen: Iterable[int]) -> Iterable[Any]:
    from coatnet.data.images import ImageError, decode

    for index in chosen:
        with contextlib.suppress(ImageError):
            yield decode(source.read(index))
