"""Run folders as the verbs use them: where a new one goes, and what an old one tells."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coatnet.classifier import Classifier
from coatnet.classifier.artefact import AskedPrecision, is_artefact
from coatnet.classifier.doctor import Sample
from coatnet.classifier.folder import Contents, find_folder
from coatnet.classifier.published import licence_of
from coatnet.cli.flags import Asked
from coatnet.data.images import ImageError, decode
from coatnet.data.listing import IMAGE_SUFFIXES
from coatnet.data.outside import outside
from coatnet.data.sources import DataConfig, SplitRecord, open_data, stored_path
from coatnet.data.splitting import stored_split
from coatnet.errors import ConfigError
from coatnet.model.catalogue import DEFAULT
from coatnet.model.family import architecture, member
from coatnet.model.guests import PREFIX
from coatnet.model.hub import WEIGHTS_SUFFIXES, holds_weights
from coatnet.model.published import is_published_name
from coatnet.ranks import is_main
from coatnet.runtime.engines import Runtime
from coatnet.training.claim import check_unheld
from coatnet.training.config import lay_over
from coatnet.training.folder import RunFolder, claimed, default_folder, is_taken
from coatnet.training.initial import AUTO, NONE, resolve_source

if TYPE_CHECKING:
    from coatnet.export.quantization import Int8


@contextlib.contextmanager
def claimed_folder(data: str, out: Path | None, resume: bool, overwrite: bool) -> Iterator[Path]:
    """The folder of a run, held before anything is read for it, so that no other process takes it. A run that goes on
    is held by `training.loop.resume`; the other processes of a run leave it to the main one.

    Raises:
        ConfigError: `out` cannot be used.
    """
    folder = choose_folder(data, out, resume, overwrite)
    if not is_main() or (resume and RunFolder(folder).exists()):
        yield folder
        return
    with claimed(None if out is None else folder, data, overwrite) as run:
        yield run.path


def choose_folder(data: str, out: Path | None, resume: bool, overwrite: bool) -> Path:
    """The folder of a run: `out`, or a new one below runs/ that is named after the data.

    Raises:
        ConfigError: `out` cannot be used.
    """
    if out is None:
        if resume or overwrite:
            raise ConfigError(f"--{'resume' if resume else 'overwrite'} needs --out, the folder of the run")
        return outside(default_folder(data), data)
    out = out.expanduser()
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "give one of them")
    blocked = next((path for path in (out, *out.absolute().parents) if path.exists() and not path.is_dir()), None)
    if blocked:
        raise ConfigError(f"--out {out}: {blocked} is a file", "choose a new folder")
    check_unheld(out)
    if is_taken(out) and not ((resume or overwrite) and RunFolder(out).exists()):
        hint = "choose another --out" + (", or add --resume or --overwrite" if RunFolder(out).exists() else "")
        raise ConfigError(f"--out {out} is not empty", hint)
    return out if RunFolder(out).exists() else outside(out, data)


def check_unchanged(folder: Path, data: str, flags: dict[str, dict[str, Any]], asked_for: Asked) -> None:
    """A run goes on as it began: flags may repeat its settings, not change them. What was open then, a length
    in epochs or time and --batch auto, was settled, and is not compared.

    Raises:
        ConfigError: a flag says otherwise.
    """
    stored = RunFolder(folder).read_config()
    run = {name: value for name, value in flags["run"].items() if name not in ("epochs", "time") and value != "auto"}
    asked = lay_over(stored, **{**flags, "run": run, "data": {**flags["data"], "path": stored_path(data)}})
    hint = "a run goes on as it began: leave it out, or start a new run"
    if stored.data.path != asked.data.path:
        was = f"{stored.data.path} in {folder}, got {asked.data.path}"
        raise ConfigError(f"DATA: {was}", f"if the data moved: coatnet resume {folder} --data DATA")
    for part in flags:
        before, after = getattr(stored, part), getattr(asked, part)
        for name in type(before).model_fields:
            if getattr(before, name) != getattr(after, name):
                was = f"{getattr(before, name)!r} in {folder}, got {getattr(after, name)!r}"
                raise ConfigError(f"--{name.replace('_', '-')}: {was}", hint)
    height, width = stored.preprocess.image_size
    if asked_for.size not in (None, (height, width)):
        was = str(height) if height == width else f"{height}x{width}"
        raise ConfigError(f"--image-size: {was} in {folder}, got {asked_for.image_size}", hint)
    if asked_for.model is not None and architecture(member(asked_for.model)) != architecture(stored.model):
        raise ConfigError(f"--model: {folder} trains another than {asked_for.model}", hint)
    started = stored.initial.source if stored.initial else NONE
    if asked_for.init != AUTO and resolve_source(asked_for.init) != started:
        raise ConfigError(f"--init: {started} in {folder}, got {asked_for.init}", hint)
    if asked_for.recipe and (asked_for.recipe == "finetune") != (stored.initial is not None):
        raise ConfigError(f"--recipe: {folder} was not made by {asked_for.recipe}", hint)


def published_and_images(word: str, images: tuple[Path, ...]) -> tuple[str, tuple[Path, ...]]:
    """What the words after --published mean: the first may be the name or the place of weights, or an image already.

    Returns:
        The name or place, and the images.
    """
    path = Path(word)
    if path.exists():
        is_place = holds_weights(path) if path.is_dir() else path.suffix in WEIGHTS_SUFFIXES
        return (word, images) if is_place else (DEFAULT, (path, *images))
    name = word if word.startswith(PREFIX) else PREFIX + word
    if path.suffix and path.suffix.lower() not in IMAGE_SUFFIXES and is_published_name(name):
        return name, images
    return (word, images) if word.startswith(PREFIX) else (DEFAULT, (path, *images))


def open_classifier(  # noqa: PLR0913 (options are keywords)
    word: str,
    device: str = "auto",
    precision: AskedPrecision = "float32",
    *,
    published: bool = False,
    runtime: Runtime | None = None,
    image_size: tuple[int, int] | None = None,
) -> Classifier:
    """The classifier that a word names: a folder, or published weights.

    Args:
        word: a run folder, a classifier folder, an exported artefact, or "timm/NAME.TAG".
        device: see `TorchEngine`.
        precision: see `Classifier.load`.
        published: the word names published weights, or where they lie.
        runtime: see `Classifier.load`; published weights run in torch.
        image_size: height and width in pixels, if not its own.

    Raises:
        ConfigError: published weights in another runtime than torch.
    """
    if not published and (Path(word).exists() or not is_published_name(word)):
        return Classifier.load(word, device, precision, runtime, image_size)
    if runtime not in (None, "auto", "torch"):
        raise ConfigError(
            f"--runtime {runtime}: published weights run in torch", f"export them first: coatnet export {word}"
        )
    loaded = Classifier.published(word, device, "float32" if precision == "auto" else precision)
    return loaded if image_size is None else loaded.at_size(image_size)


def tell_runtime(classifier: Classifier, runtime: Runtime) -> None:
    """Say what was chosen, where the choice was ours, to whoever looks on: a script finds only errors there."""
    if runtime == "auto" and sys.stderr.isatty():
        sys.stderr.write(f"runtime: {classifier.engine.description}\n")


def weights_of(path: Path) -> str:
    """sha256 of the weights of a classifier folder, "" for published weights."""
    return Contents.read(find_folder(path)).fingerprint.sha256 if path.exists() else ""


def find_licence(word: str) -> str:
    """The licence of published weights, or of those that a run started from; "" where it is not known."""
    run = run_of(Path(word)) if Path(word).exists() else None
    initial = RunFolder(run).read_config().initial if run else None
    return licence_of(initial.source if initial else word)


def quantization_of(path: Path, data: str | None, max_drop: float | None) -> Int8:
    """The images that int8 is calibrated on, those of training, and those that it is tested on, the run's own splits
    where there are any.

    Raises:
        ConfigError: there is no data.
    """
    from coatnet.export.quantization import Int8

    if data is None and run_of(path) is None:
        raise ConfigError("--int8 needs --data, images to calibrate on", f"{path} is not a run folder, which has some")
    splits = open_data(data_of(path, data), split_of(path))
    return Int8(splits.train, splits.final[0], 1.0 if max_drop is None else max_drop)


def run_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose classifier folder it is; None if it is neither."""
    for folder, classifier in ((path, path / "classifier"), (path.absolute().parent, path)):
        if classifier.name == "classifier" and classifier.is_dir() and RunFolder(folder).exists():
            return folder
    return None


def data_of(path: Path, data: str | None) -> DataConfig:
    """What to score: `data`, read as the run read its own, or the run's own.

    Raises:
        ConfigError: neither is there.
    """
    run = run_of(path)
    if run is not None:
        stored = RunFolder(run).read_config().data
        return stored if data is None else stored.replace(path=data)
    if data is None:
        if not is_artefact(path):
            find_folder(path)  # what is no classifier at all is told first
        raise ConfigError("DATA is missing", f"{path} is not a run folder, which would know its data")
    return DataConfig(path=data)


def split_of(path: Path) -> SplitRecord | None:
    """The split that the run chose, if there is a run."""
    run = run_of(path)
    return None if run is None else stored_split(run)


TRIED_IMAGES = 256
"""Images that doctor tries: enough to tell 5 % from chance, some seconds on a laptop."""


def sample_of(path: Path, data: str | None) -> Sample | None:
    """Some images of `data`, else of the run's own data if they are still there; None if there are none."""
    if data is None and (run_of(path) is None or path.is_file()):
        return None
    config = data_of(path, data)
    if data is None and config.path != "digits" and not Path(config.path).exists():
        return None
    source = open_data(config, split_of(path)).final[0]
    chosen = source.subset(np.unique(np.linspace(0, len(source) - 1, TRIED_IMAGES).astype(int)))
    images, labels = [], []
    for index in range(len(chosen)):
        with contextlib.suppress(ImageError):
            images.append(decode(chosen.read(index)))
            labels.append(chosen.class_names[chosen.labels[index]])
    return Sample(images, labels) if images else None
