"""Classifier: an engine, the preprocessing and the class names; `predict`, `save` and `load`.

Importing this file imports no torch.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier.artefact import AskedPrecision
from coatnet.classifier.card import model_card
from coatnet.classifier.fingerprint import take_fingerprint
from coatnet.classifier.folder import CARD, WEIGHTS, Contents, replace_folder, sha256
from coatnet.classifier.inputs import AnyImage, as_array
from coatnet.classifier.opening import name_problem, open_engine, proved_network, resized
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, ModelFileError, QualityError
from coatnet.model.catalogue import DEFAULT
from coatnet.model.config import CoAtNetConfig
from coatnet.model.guests import GuestConfig
from coatnet.model.heads import classes_layers
from coatnet.runtime.engines import Engine, Precision, Runtime, TorchEngine

if TYPE_CHECKING:
    from torch import nn

NOT_DESCRIBED = "only what create_model gives can be saved; nothing was written"
BATCH_SIZE = 32
"""Images that `predict` gives to the engine at once."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    label: str
    """Name of the most probable class."""
    probability: float
    """Its softmax probability, in (0, 1]."""
    top: tuple[tuple[str, float], ...]
    """The most probable classes with their probabilities, best first."""

    def as_dict(self) -> dict[str, Any]:
        """`label`, `probability` (a fraction) and `top`, a list of [label, probability]; ready for JSON."""
        return {"label": self.label, "probability": self.probability, "top": [list(pair) for pair in self.top]}


class Classifier:
    """Images in, class names out.

    Any number of threads may use one classifier, and load others. It can be copied and pickled; a pickle of one that
    runs in ONNX Runtime, OpenVINO or from an export holds the path of its file. In a forked process torch is refused
    where it would hang (see `check_fork`), and OpenVINO where it would be loaded again; ONNX Runtime works there.

    Args:
        model_or_engine: what `create_model` gives, of which a copy runs on the fastest device of this machine; or an
            Engine.
        preprocess: how images become input; default: the model's own image size.
        class_names: one per logit, all different; default for a model with a config: "0", "1", ...

    Raises:
        ConfigError: the model does not take RGB images, names do not fit the classes, something is not given that only
            a model's config can tell, or the classes layer is not the one that the config describes.
    """

    def __init__(
        self,
        model_or_engine: "nn.Module | Engine",
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.engine = model_or_engine if isinstance(model_or_engine, Engine) else TorchEngine(model_or_engine)
        config = _config_of(self.engine)
        if config is None and (preprocess is None or class_names is None):
            raise ConfigError(
                "The model has no network_config, so preprocess and class_names cannot be guessed.", "Give both."
            )
        if config is not None and config.input_channels != 3:
            raise ConfigError(f"input_channels is {config.input_channels}; a classifier takes RGB images, so 3.")
        if config is not None:
            _check_classes(self.engine, config)
            preprocess = preprocess or Preprocess(image_size=(config.image_size, config.image_size))
            class_names = [str(index) for index in range(config.num_classes)] if class_names is None else class_names
        assert preprocess is not None
        assert class_names is not None
        self.preprocess = preprocess
        self.class_names = tuple(class_names)
        problem = name_problem(self.class_names, None if config is None else config.num_classes)
        if problem:
            raise ConfigError(problem[0].upper() + problem[1:])

    @overload
    def predict(self, images: AnyImage, top: int = 5) -> Prediction: ...  # type: ignore[overload-overlap]  # str

    @overload
    def predict(self, images: Sequence[AnyImage], top: int = 5) -> list[Prediction]: ...

    def predict(self, images: AnyImage | Sequence[AnyImage], top: int = 5) -> Prediction | list[Prediction]:
        """Name what is to be seen.

        Args:
            images: a path, the bytes of a file, a Pillow image or an (H, W, 3) uint8 RGB array; or a list of those.
            top: how many classes to list, at least 1; all of them if there are fewer.

        Returns:
            A Prediction; for a list, a list in the same order.

        Raises:
            ImageError: an image cannot be read; the first one is named.
            ConfigError: something that is no image, top below 1, or class names that are not as many as the logits.
            QualityError: the logits are not finite.
        """
        if not isinstance(top, (int, np.integer)) or top < 1:
            raise ConfigError(f"top is {top!r}; it must be a whole number, at least 1.")
        if not isinstance(images, (list, tuple)):
            return self.predict([images], top)[0]  # type: ignore[list-item]
        answers: list[Prediction] = []
        for start in range(0, len(images), BATCH_SIZE):
            pixels = [self.preprocess.resized(as_array(image)) for image in images[start : start + BATCH_SIZE]]
            logits = self.logits(np.stack(pixels))
            if logits.shape[1] != len(self.class_names):
                raise ConfigError(f"the network gives {logits.shape[1]} logits for {len(self.class_names)} class names")
            for row in softmax(logits):
                best = np.argsort(-row, kind="stable")[:top]
                listed = tuple((self.class_names[index], float(row[index])) for index in best)
                answers.append(Prediction(listed[0][0], listed[0][1], listed))
        return answers

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """What the network says, before the softmax.

        Args:
            images: (B, H, W, 3) uint8 RGB of any size, or (B, 3, H, W) float, preprocessed already.

        Returns:
            (B, classes) float32.

        Raises:
            ConfigError: another shape or type.
        """
        images = np.asarray(images)
        if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3:
            resized = [self.preprocess.resized(image) for image in images]
            batch = np.stack(resized) if resized else np.zeros((0, *self.preprocess.image_size, 3), np.uint8)
            return self.engine.logits(self.preprocess.normalized(batch))
        if images.dtype.kind == "f" and images.ndim == 4 and images.shape[1] == 3:
            return self.engine.logits(images.astype(np.float32, copy=False))
        raise ConfigError(
            f"images are {images.dtype} of shape {images.shape}.",
            "Give (B, H, W, 3) uint8, or (B, 3, H, W) float that is preprocessed already.",
        )

    def save(self, folder: str | Path) -> None:
        """Write a classifier folder. It is made beside its place and moved there whole.

        Args:
            folder: its place: nothing, an empty folder, or a classifier folder, which is replaced.

        Raises:
            ConfigError: `folder` holds other things, or the network is not the one that `create_model` gives for its
                config: what is read back would not be what was saved.
            QualityError: the network's logits are not finite.
        """
        engine, config = self.engine, _config_of(self.engine)
        if config is None or not isinstance(engine, TorchEngine):
            raise ConfigError("Only a classifier whose network was made by create_model can be saved.")
        exact = TorchEngine(engine.model, str(engine.device), copy=False)  # the same module, in float32
        proof = take_fingerprint("", exact, self.preprocess)

        def write(fresh: Path) -> None:
            from coatnet.model.weights import save_weights

            try:
                save_weights(exact.model, fresh / WEIGHTS)
            except RuntimeError as error:  # of tensors that share memory, which no file of create_model's has
                reason = str(error).strip().partition(",")[0]
                raise ConfigError(f"the network cannot be saved: {reason}", NOT_DESCRIBED) from None
            whole = proof.replace(sha256=sha256(fresh / WEIGHTS))
            contents = Contents(config=config, preprocess=self.preprocess, labels=self.class_names, fingerprint=whole)
            contents.write(fresh)
            _check_described(fresh, contents, str(exact.device))
            (fresh / CARD).write_text(model_card(config, self.preprocess, self.class_names), encoding="utf-8")
            shutil.copymode(fresh / CARD, fresh / WEIGHTS)  # safetensors lets only the owner read

        replace_folder(Path(folder).absolute(), write)

    def at_size(self, image_size: tuple[int, int]) -> Self:
        """The same classifier for images of another size: the relative tables serve any grid, resized as it runs.

        Args:
            image_size: height and width of the network's input in pixels, 32 to 2048.

        Raises:
            ConfigError: a side that the network cannot take.
        """
        made_for = getattr(self.engine, "image_size", image_size)
        if made_for != image_size:
            raise ConfigError(
                f"this classifier runs in {self.engine.description}, made for {made_for[0]}x{made_for[1]} pixels",
                "give image_size to Classifier.load instead",
            )
        return type(self)(self.engine, resized(self.preprocess, image_size), self.class_names)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        precision: AskedPrecision = "float32",
        runtime: Runtime | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Self:
        """Read a classifier folder or an exported artefact, and prove that it is whole.

        Args:
            path: a classifier folder, a run folder that holds one, or the folder of an artefact.
            device: see `TorchEngine`; the other runtimes run on the CPU.
            precision: `auto` is bfloat16 where OpenVINO or torch runs on a CPU that multiplies it, and its error on
                generated images was found small, when the network was converted or now; else float32. The proof of a
                classifier folder is done in float32 in any case.
            runtime: what computes. `auto` takes the fastest that is installed, see `choose_runtime`. A classifier
                folder is converted for it once; the next start reads the conversion. None: torch, whose module is then
                there to be saved or looked into; an artefact always runs in its own runtime.
            image_size: height and width of the network's input in pixels; default: the folder's.

        Raises:
            ConfigError: these options do not go together, or the artefact is not for this size.
            ModelFileError: missing, damaged, written by a newer coatnet, or its logits are not the stored ones.
            MissingPartError: the device or the runtime is not there.
        """
        return cls(*open_engine(Path(path), device, precision, runtime, image_size))

    @classmethod
    def published(cls, name: str | Path = DEFAULT, device: str = "auto", precision: Precision = "float32") -> Self:
        """A classifier with published weights, from the cache of the Hugging Face hub, else from the hub.

        Preprocessing and class names come from the weights' own record.

        Args:
            name: "timm/NAME.TAG" of any timm model (`coatnet models --published` lists the CoAtNets), or a folder that
                holds weights and their config.json, or a file of weights with it beside.
            device: see `TorchEngine`.
            precision: see `TorchEngine`.

        Raises:
            ConfigError: there are no such weights, or their preprocessing is none that coatnet has.
            MissingPartError: the weights are not here, and the hub does not answer.
            ModelFileError: the weights or their record are damaged, or of another network.
        """
        from coatnet.classifier.published import class_names_of, preprocess_of
        from coatnet.model.guest_weights import load_guest
        from coatnet.model.published import find_published

        place = Path(name) if isinstance(name, Path) or Path(name).exists() else None
        record, files = find_published("" if place else str(name), place)
        preprocess = preprocess_of(record)
        engine = TorchEngine(load_guest(record, files.weights, {}), device, precision, copy=False)
        return cls(engine, preprocess, class_names_of(record))


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities of each row, in float64.

    Raises:
        QualityError: a logit is not finite.
    """
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        raise QualityError(
            "The network's logits are not finite.", "The weights have diverged, or overflow in this precision."
        )
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _check_classes(engine: Engine, config: CoAtNetConfig | GuestConfig) -> None:
    """See that the classes layer has the width that the config says.

    Raises:
        ConfigError: it has another.
    """
    if not isinstance(engine, TorchEngine):
        return
    state = engine.model.state_dict()
    for layer in classes_layers(config):
        weight = state.get(f"{layer}.weight")
        if weight is not None and len(weight) != config.num_classes:
            raise ConfigError(
                f"the layer {layer} gives {len(weight)} logits; the model's config describes {config.num_classes}",
                f"make the network by create_model with num_classes={len(weight)}, or delete its network_config and "
                "give preprocess and class_names",
            )


def _check_described(folder: Path, contents: Contents, device: str) -> None:
    """See that the network built from what was written is the one that was saved.

    Raises:
        ConfigError: it is another.
    """
    try:
        proved_network(folder, contents, device)
    except ModelFileError as error:
        reason = error.message.replace(f"{folder / WEIGHTS}", "the weights").replace(f"{folder}", "the folder")
        raise ConfigError(
            f"the network is not the one that its config describes: {reason}",
            NOT_DESCRIBED,
        ) from None


def _config_of(engine: Engine) -> CoAtNetConfig | GuestConfig | None:
    config = getattr(engine.model, "network_config", None) if isinstance(engine, TorchEngine) else None
    return config if isinstance(config, CoAtNetConfig | GuestConfig) else None
