"""Where first weights come from: a classifier folder, a run folder, a weights file, or published ones by name. No torch
until asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from coatnet.classifier import Classifier
from coatnet.classifier.folder import JSON_FILES, WEIGHTS, Contents, find_folder, sha256
from coatnet.classifier.published import class_names_of, preprocess_of
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, MissingPartError, ModelFileError
from coatnet.frozen import explain
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, ModelConfig, architecture, create_model, member
from coatnet.model.guests import DEEPVIT, PREFIX, GuestConfig, guest
from coatnet.model.heads import Carried, carry_classes, classes_layers, with_classes
from coatnet.model.hub import RECORD, holds_weights
from coatnet.model.published import Published, find_published, is_published_name
from coatnet.training.config import Initial, TrainConfig
from coatnet.training.look import PHOTOGRAPH, Look

if TYPE_CHECKING:
    from torch import Tensor

NONE, AUTO = "none", "auto"
"""What the command line calls random first weights, and the choice between them and published ones."""
ENOUGH_IMAGES = 100_000
"""From here on training from scratch is justified: what `finetune` calls many, a tenth of ImageNet-1K."""
START_ON_CPU, START_ON_GPU = "timm/coatnet_nano_rw_224.sw_in1k", "timm/coatnet_2_rw_224.sw_in12k_ft_in1k"
"""Published CoAtNets to start from: the one with the fewest multiply-adds, and the most accurate at 224 px."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network that training may start from."""

    source: str
    """Classifier folder or weights file, absolute."""
    sha256: str
    """Of the file of the weights."""
    config: ModelConfig
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


def choose_initial(num_images: int, look: Look) -> tuple[str, str]:
    """Where to start if nothing is asked for: from published weights for photographs in numbers that do not justify
    training from scratch, if they are in the cache or the hub answers; it is asked once, and never for other images.

    Returns:
        The name of published weights or `NONE`, and what to say of it in a line, or "".
    """
    if look.side < PHOTOGRAPH or num_images >= ENOUGH_IMAGES:
        return NONE, ""
    import torch

    name = START_ON_GPU if torch.cuda.is_available() else START_ON_CPU
    try:
        find_published(name)
    except MissingPartError as error:
        return NONE, f"initial weights: none, though published ones would start better: {error.message}; {error.hint}"
    return name, ""


def find_initial(source: str | Path, model: str | None = None) -> Pretrained:
    """The network to start from.

    Args:
        source: a classifier folder, a run folder, a weights file (see `model.tensors.read_tensors`) with our names,
            with those of timm's `coatnet_N_224` or of the guest that `model` names, a folder of the hub's form, or
            the name of published weights, "timm/NAME.TAG".
        model: the member or guest that a weights file belongs to; a folder knows it, and is only compared.

    Raises:
        ModelFileError: the source is missing, damaged or refused.
        MissingPartError: published weights are not here, and the hub does not answer.
        ConfigError: a weights file without `model`, a folder with another, or a network that is only trained from
            scratch.
    """
    path = Path(source).expanduser().absolute()
    if model == DEEPVIT:
        raise _only_from_scratch(DEEPVIT)
    if not _is_there(path) and not is_published_name(str(source)):
        raise ModelFileError(f"init {source} does not exist", _nearest(path))
    if path.is_file() and (model is None or not model.startswith(PREFIX)):
        return _from_file(path, model)
    published = _find_published(str(source), model)
    if published:
        found = _of_record(str(path) if _is_there(path) else str(source), *published)
    else:
        found = _from_folder(find_folder(path))
        if architecture(found.config) == DEEPVIT:
            raise _only_from_scratch(DEEPVIT)
    if model is not None and architecture(member(model)) != architecture(found.config):
        raise ConfigError(f"model is {model}, and {source} holds another network", "leave --model out")
    return found


def _only_from_scratch(name: str) -> ConfigError:
    return ConfigError(f"{name} can only be trained from scratch", "leave --init out")


def _from_folder(folder: Path) -> Pretrained:
    contents = Contents.read(folder)
    return Pretrained(
        source=str(folder),
        sha256=contents.fingerprint.sha256,
        config=contents.config,
        preprocess=contents.preprocess,
        class_names=contents.labels,
    )


def _is_from_hub(path: Path) -> bool:
    """Whether this is a folder of published weights, not one of ours."""
    ours = any((path / name).is_file() for name in JSON_FILES if name != RECORD)
    return path.is_dir() and holds_weights(path) and not ours


def _find_published(source: str, guest: str | None) -> tuple[Published, Path] | None:
    """Record and weights of published weights: by name, in a folder of the hub's form, or a file of the guest's; None
    for a folder of ours."""
    path = Path(source).expanduser().absolute()
    if not _is_there(path):
        record, files = find_published(source)
    elif path.is_file():
        record, files = find_published(guest or "", path)
    elif _is_from_hub(path):
        record, files = find_published("", path)
    else:
        return None
    return record, files.weights


def _of_record(source: str, record: Published, weights: Path) -> Pretrained:
    config = guest(PREFIX + record.architecture).replace(image_size=record.image_size)
    return Pretrained(
        source=source,
        sha256=sha256(weights),
        config=config.replace(num_classes=record.num_classes or config.num_classes),
        preprocess=preprocess_of(record),
        class_names=class_names_of(record) if record.num_classes else None,
    )


def resolve_source(init: str) -> str:
    """What a run stores for `init`: the absolute path, of the classifier in it where it is a run folder; a name as it
    is."""
    path = Path(init).expanduser().absolute()
    if init == NONE or (is_published_name(init) and not _is_there(path)):
        return init
    return str(path / "classifier" if (path / "classifier").is_dir() else path)


class InitialState(NamedTuple):
    """The state of a run's network before its first step."""

    tensors: dict[str, Tensor]
    carried: Carried
    """What became of the classes layer."""


def initial_state(config: TrainConfig) -> InitialState:
    """The state of a run's network before its first step, from the source that its config names.

    Raises:
        ModelFileError: the source is gone, refused or not what it was, or its weights do not fit.
        MissingPartError: published weights are not here any more.
    """
    import torch

    from coatnet.model.weights import fill

    assert config.initial is not None
    read = _read_guest if isinstance(config.model, GuestConfig) else _read_member
    old_names, tensors = read(config.initial, config)
    carried = carry_classes(old_names, config.class_names)
    torch.manual_seed(config.run.seed)
    network = create_model(config.model)
    state = with_classes(tensors, network.state_dict(), carried, classes_layers(config.model))
    fill(network, state, config.initial.source)
    return InitialState(network.state_dict(), carried)


def _read_member(initial: Initial, config: TrainConfig) -> tuple[tuple[str, ...] | None, dict[str, Tensor]]:
    """Class names, if they are known, and tensors under our own names."""
    from coatnet.model.conversion import from_timm, is_timm
    from coatnet.model.tensors import read_tensors
    from coatnet.runtime.engines import TorchEngine

    assert isinstance(config.model, CoAtNetConfig)
    source = Path(initial.source)
    _check_unchanged(source if source.is_file() else source / WEIGHTS, initial)
    if source.is_file():
        tensors = read_tensors(source)
        return None, from_timm(tensors, config.model) if is_timm(tensors) else tensors
    classifier = Classifier.load(source, device="cpu")  # proves the whole folder
    assert isinstance(classifier.engine, TorchEngine)
    return classifier.class_names, dict(classifier.engine.model.state_dict())


def _read_guest(initial: Initial, config: TrainConfig) -> tuple[tuple[str, ...] | None, dict[str, Tensor]]:
    """Class names, if they are known, and timm's tensors, with positions made for the run's image size."""
    from coatnet.model.guest_weights import load_guest

    assert isinstance(config.model, GuestConfig)
    published, names = _find_published(initial.source, config.model.guest), None
    if published:
        record, weights = published
    else:
        source = Path(initial.source)
        Classifier.load(source, device="cpu")  # proves the whole folder
        contents = Contents.read(source)
        record, weights, names = _record_of(contents), source / WEIGHTS, contents.labels
    _check_unchanged(weights, initial)
    changes: dict[str, object] = {"image_size": config.model.image_size}
    if not record.num_classes:
        return None, dict(load_guest(record, weights, {**changes, "num_classes": len(config.class_names)}).state_dict())
    return names or class_names_of(record), dict(load_guest(record, weights, changes).state_dict())


def _record_of(contents: Contents) -> Published:
    """The record of a guest's classifier folder, as if it were published."""
    assert isinstance(contents.config, GuestConfig)
    side, preprocess = contents.config.image_size, contents.preprocess
    return Published(
        architecture=contents.config.guest.removeprefix(PREFIX),
        num_classes=contents.config.num_classes,
        input_size=(3, side, side),
        mean=preprocess.mean,
        std=preprocess.std,
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_fraction,
        label_names=contents.labels,
    )


def _check_unchanged(weights: Path, initial: Initial) -> None:
    if not weights.is_file() or sha256(weights) != initial.sha256:
        raise ModelFileError(f"{weights} is missing, damaged, or has changed since the run was planned", "start again")


def _from_file(path: Path, model: str | None) -> Pretrained:
    if model is None:
        raise ConfigError(
            f"{path} is a weights file, and only its member can be built for it",
            f"say which it is by --model: {', '.join(list(FAMILY)[:3])}, ..., or timm/NAME",
        )
    from coatnet.model.conversion import is_timm, timm_config
    from coatnet.model.tensors import read_tensors
    from coatnet.model.weights import fitting_config

    tensors, asked = read_tensors(path), member(model)
    assert isinstance(asked, CoAtNetConfig)  # guests are read elsewhere
    theirs = is_timm(tensors)
    try:
        config = (timm_config if theirs else fitting_config)(tensors, asked)
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
    choices = "give a run folder, a classifier folder, a weights file or timm/NAME.TAG; none for random ones"
    return f"did you mean {', '.join(near)}? {choices}" if near else choices
