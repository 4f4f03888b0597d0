"""Where first weights come from: a classifier folder, a run folder, or a weights file. No torch until asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from coatnet.classifier import Classifier
from coatnet.classifier.folder import WEIGHTS, Contents, find_folder, sha256
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, ModelFileError
from coatnet.frozen import explain
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, create_model, member
from coatnet.model.heads import carry_classes, classes_layer, with_classes
from coatnet.training.config import Initial, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

NONE = "none"
"""What the command line calls random first weights."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network that training may start from."""

    source: str
    """Classifier folder or weights file, absolute."""
    sha256: str
    """Of the file of the weights."""
    config: CoAtNetConfig
    preprocess: Preprocess | None
    """None where the source does not tell."""
    class_names: tuple[str, ...] | None
    """None where the source does not tell."""

    def record(self, class_names: tuple[str, ...]) -> Initial:
        """What a run stores of it that trains these classes."""
        words = carry_classes(self.class_names, class_names).words
        if self.class_names is None:
            words = "new, a weights file does not name its classes"
        return Initial(source=self.source, sha256=self.sha256, head=words)


def find_initial(source: str | Path, model: str | None = None) -> Pretrained:
    """The network to start from.

    Args:
        source: a classifier folder, a run folder, or a weights file (see `model.tensors.read_tensors`) with our names
            or those of timm's `coatnet_N_224`.
        model: the member that a weights file belongs to; a folder knows it, and is only compared.

    Raises:
        ModelFileError: the source is missing, damaged or refused.
        ConfigError: a weights file without `model`, or a folder with another.
    """
    path = Path(source).expanduser().absolute()
    if not _is_there(path):
        raise ModelFileError(f"init {source} does not exist", _nearest(path))
    if path.is_file():
        return _from_file(path, model)
    folder = find_folder(path)
    contents = Contents.read(folder)
    if model is not None and member(model).stages != contents.config.stages:
        raise ConfigError(f"model is {model}, and {source} holds another network", "leave --model out")
    return Pretrained(
        source=str(folder),
        sha256=contents.fingerprint.sha256,
        config=contents.config,
        preprocess=contents.preprocess,
        class_names=contents.labels,
    )


def resolve_source(init: str) -> str:
    """What a run stores for `init`: the absolute path, of the classifier in it where it is a run folder."""
    if init == NONE:
        return NONE
    path = Path(init).expanduser().absolute()
    return str(path / "classifier" if (path / "classifier").is_dir() else path)


def initial_state(config: TrainConfig) -> dict[str, Tensor]:
    """The state of a run's network before its first step, from the source that its config names.

    Raises:
        ModelFileError: the source is gone, refused or not what it was, or its weights do not fit.
    """
    import torch

    from coatnet.model.weights import fill

    assert config.initial is not None
    source = Path(config.initial.source)
    old_names, tensors = _read(source, config)
    carried = carry_classes(old_names, config.class_names)
    torch.manual_seed(config.run.seed)
    network = create_model(config.model)
    layer = classes_layer(config.model)
    fill(network, with_classes(tensors, network.state_dict(), carried, layer), str(source))
    return network.state_dict()


def _read(source: Path, config: TrainConfig) -> tuple[tuple[str, ...] | None, dict[str, Tensor]]:
    """Class names, if they are known, and tensors under our own names."""
    from coatnet.model.conversion import from_timm, is_timm
    from coatnet.model.tensors import read_tensors
    from coatnet.runtime.engines import TorchEngine

    assert config.initial is not None
    weights = source if source.is_file() else source / WEIGHTS
    if not weights.is_file() or sha256(weights) != config.initial.sha256:
        raise ModelFileError(f"{weights} is missing, damaged, or has changed since the run was planned", "start again")
    if source.is_file():
        tensors = read_tensors(source)
        return None, from_timm(tensors, config.model) if is_timm(tensors) else tensors
    classifier = Classifier.load(source, device="cpu")  # proves the whole folder
    assert isinstance(classifier.engine, TorchEngine)
    return classifier.class_names, dict(classifier.engine.model.state_dict())


def _from_file(path: Path, model: str | None) -> Pretrained:
    if model is None:
        raise ConfigError(
            f"{path} is a weights file, and only its member can be built for it",
            f"say which it is by --model: {', '.join(list(FAMILY)[:3])}, ...",
        )
    from coatnet.model.conversion import is_timm, timm_config
    from coatnet.model.tensors import read_tensors
    from coatnet.model.weights import fitting_config

    tensors = read_tensors(path)
    theirs = is_timm(tensors)
    try:
        config = (timm_config if theirs else fitting_config)(tensors, member(model))
    except ValidationError as error:
        raise ModelFileError(
            f"{path} does not hold a {model}: {explain(error)}", "name its member by --model"
        ) from None
    preprocess = _timm_preprocess(config) if theirs else None
    return Pretrained(source=str(path), sha256=sha256(path), config=config, preprocess=preprocess, class_names=None)


def _timm_preprocess(config: CoAtNetConfig) -> Preprocess:
    """What timm's paper-form CoAtNets are fed with, from timm itself."""
    from timm.models.maxxvit import default_cfgs

    theirs = default_cfgs["coatnet_0_224"].default
    return Preprocess(
        image_size=(config.image_size, config.image_size),
        crop_fraction=theirs.crop_pct,
        interpolation=theirs.interpolation,
        mean=theirs.mean,
        std=theirs.std,
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for any file
        return False


def _nearest(path: Path) -> str:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3)
    choices = "give a classifier folder, a run folder or a weights file, or none for random first weights"
    return f"did you mean {', '.join(near)}? {choices}" if near else choices
