"""From a path to an engine with its preprocessing and class names: classifier folders and artefacts, each proved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from coatnet.classifier.artefact import Artefact, AskedPrecision, generated_images, is_artefact
from coatnet.classifier.conversions import open_converted
from coatnet.classifier.fingerprint import check_fingerprint, take_fingerprint
from coatnet.classifier.folder import Contents, find_folder
from coatnet.classifier.network import build_network
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, ModelFileError
from coatnet.frozen import explain
from coatnet.runtime.agreement import BFLOAT16_LIMIT, compare
from coatnet.runtime.choice import choose_runtime
from coatnet.runtime.engines import Engine, Precision, Runtime, TorchEngine, multiplies_bfloat16

COMPARED_IMAGES = 2
"""Generated images that tell torch's error in bfloat16: few, for nothing keeps the answer for the next start."""
Opened = tuple[Engine, Preprocess, tuple[str, ...]]


def open_engine(
    path: Path,
    device: str = "auto",
    precision: AskedPrecision = "float32",
    runtime: Runtime | None = None,
    image_size: tuple[int, int] | None = None,
) -> Opened:
    """What `Classifier.load` describes."""
    if is_artefact(path):
        return _open_artefact(path, device, precision, runtime, image_size)
    folder = find_folder(path)
    contents = Contents.read(folder)
    problem = name_problem(contents.labels, contents.config.num_classes)
    if problem:
        raise ModelFileError(f"{folder / 'labels.json'}: {problem}")
    contents.prove(folder)
    preprocess = resized(contents.preprocess, image_size)
    chosen = choose_runtime(runtime or "torch", device)
    if chosen == "torch" or chosen == "compiled":
        exact = proved_network(folder, contents, device)
        return _in_torch(exact, preprocess, precision, chosen), preprocess, contents.labels
    _check_cpu(chosen, device)
    engine = open_converted(
        folder, chosen, contents, preprocess, precision, lambda: proved_network(folder, contents).model
    )
    return engine, preprocess, contents.labels


def resized(preprocess: Preprocess, image_size: tuple[int, int] | None) -> Preprocess:
    """The preprocessing for another size.

    Raises:
        ConfigError: a side that no network can take.
    """
    try:
        return preprocess if image_size is None else preprocess.replace(image_size=image_size)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def name_problem(names: Sequence[str], num_classes: int | None) -> str:
    """What is wrong with class names, or ""."""
    if not names:
        return "there are no class names; a classifier needs a network with classes."
    if num_classes is not None and len(names) != num_classes:
        return f"{len(names)} class names for {num_classes} classes."
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    return f"class names are given more than once: {', '.join(repeated[:5])}." if repeated else ""


def _in_torch(
    exact: TorchEngine, preprocess: Preprocess, asked: AskedPrecision, runtime: Literal["torch", "compiled"]
) -> Engine:
    """The engine of a network; `auto` takes bfloat16 where the CPU has it and the error is found small."""
    from coatnet.runtime.compiled_engine import CompiledEngine

    def engine(precision: Precision) -> Engine:
        if runtime == "compiled":
            return CompiledEngine(exact.model, str(exact.device), precision)
        return TorchEngine(exact.model, str(exact.device), precision, copy=False)

    if asked != "auto":
        return engine(asked)
    if exact.device.type == "cpu" and multiplies_bfloat16(exact.device):
        rounded, images = engine("bfloat16"), generated_images(preprocess, COMPARED_IMAGES)
        if compare(exact.logits(images), rounded.logits(images)).relative_error <= BFLOAT16_LIMIT:
            return rounded
    return engine("float32")


def proved_network(folder: Path, contents: Contents, device: str = "cpu") -> TorchEngine:
    """The network in float32.

    Raises:
        ModelFileError: it cannot be built, or does not give what the fingerprint says.
    """
    engine = TorchEngine(build_network(folder, contents), device, copy=False)
    found = take_fingerprint(contents.fingerprint.sha256, engine, contents.preprocess)
    check_fingerprint(folder, contents.fingerprint, found, contents.preprocess)
    return engine


def _open_artefact(
    path: Path,
    device: str,
    precision: AskedPrecision,
    runtime: Runtime | None,
    image_size: tuple[int, int] | None,
) -> Opened:
    artefact = Artefact.read(path)
    if runtime not in (None, "auto", artefact.record.kind):
        raise ConfigError(f"runtime {runtime}: {path} is an artefact of {artefact.record.kind}", "leave runtime out")
    _check_cpu(artefact.record.kind, device)
    preprocess = artefact.preprocess if image_size is None else artefact.at_size(image_size)
    engine = artefact.engine(preprocess.image_size, precision)
    return engine, preprocess, artefact.labels


def _check_cpu(runtime: str, device: str) -> None:
    if device not in ("auto", "cpu"):
        raise ConfigError(f"device {device}: {runtime} runs on the CPU", "leave the device out, or take runtime torch")
