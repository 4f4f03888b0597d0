"""Recipes: functions that look at the data and return a whole TrainConfig, with the reasons of each choice.

`small_data` trains from scratch; `finetune`, in its own file, from what another run learned; those of imagenet.py are
the paper's pre-training.
"""

from __future__ import annotations

import numpy as np

from coatnet.data.augmentation import AugmentationConfig, Resize
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import member
from coatnet.model.guests import GuestConfig
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig
from coatnet.training.finetuning import finetune
from coatnet.training.imagenet import imagenet_1k, imagenet_1k_modern, imagenet_21k, jft
from coatnet.training.look import PHOTOGRAPH, Look, OpenedData, data_choices, flip_choice, opened

_PHOTOGRAPH_CROP = (0.35, 1.0)
"""Share of a photograph that a random crop shows: what fastai's training script for Imagenette takes for ten to two
hundred passes; the 0.08 of ImageNet's recipes is made for more images."""

__all__ = ["finetune", "imagenet_1k", "imagenet_1k_modern", "imagenet_21k", "jft", "small_data"]


def small_data(
    data: str | DataConfig | OpenedData,
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
) -> TrainConfig:
    """Train from scratch on some hundred to some hundred thousand images, on a laptop or on a GPU.

    Member, image size, batch and length follow from the data; each choice can be overruled, and is said in `choices`.

    Args:
        data: a path, "digits", a DataConfig, or what is open already.
        model: a member's name instead of the choice.
        image_size: height and width in pixels instead of the choice.
        batch_size: images per step instead of the choice.

    Raises:
        DataError: the data cannot be read.
        ConfigError: there is no such model, or it cannot work at this size.
    """
    found = opened(data)
    config, splits = found.config, found.splits
    num_images, look = len(splits.train), found.look
    choices = data_choices(splits, look)
    name, reason = (model, "as asked") if model else _choose_member(num_images, look, image_size)
    choices.append(f"model: {name}, {reason}")
    network = member(name).replace(num_classes=len(splits.train.class_names))
    if image_size is not None:
        network = network.replace(image_size=image_size)
    choices.append(
        f"image size: {network.image_size} px, {'as asked' if image_size else 'what this model is made for'}"
    )
    resize: Resize = "crop" if look.side <= network.image_size * 1.5 and not look.oblong else "stretch"
    preprocess = _preprocess(network.image_size, resize)
    choices.append(f"resize: {resize}, {'the images are nearly square' if resize == 'crop' else 'nothing is cut off'}")
    mirroring = found.mirroring
    augmentation = _augmentation(network.image_size, look).replace(horizontal_flip=mirroring.allowed)
    choices.append(flip_choice(mirroring))
    batch, reason = (batch_size, "as asked") if batch_size else _choose_batch(num_images)
    choices.append(f"batch: {batch} images, {reason}")
    epochs = _choose_epochs(num_images)
    choices.append(f"length: {epochs} epochs unless another is asked for; fewer images need more passes")
    return TrainConfig(
        data=config,
        model=_regularised(network, num_images),
        preprocess=preprocess,
        augmentation=augmentation,
        optimizer=OptimizerConfig(learning_rate=1.4e-3 * (batch / 64) ** 0.5, ema=0.999),
        run=RunConfig(epochs=epochs, batch_size=batch),
        class_names=splits.train.class_names,
        choices=tuple(choices),
    )


def _choose_member(num_images: int, look: Look, image_size: int | None) -> tuple[str, str]:
    side = image_size or look.side
    size = 32 if side <= 48 else 64 if side <= 112 else 128
    kind = "small" if num_images >= 100_000 else "mini"
    reason = f"images are {look.side} px and {num_images} are {'enough' if kind == 'small' else 'few'}"
    return f"coatnet_{kind}_{size}", reason


def _regularised(network: CoAtNetConfig | GuestConfig, num_images: int) -> CoAtNetConfig | GuestConfig:
    """Many images in few passes leave nothing to regularise; few images in many passes do. Not every guest can."""
    if isinstance(network, GuestConfig):
        return network
    return network.replace(stochastic_depth=0.05 if num_images < 10_000 else 0.0)


def _preprocess(image_size: int, resize: Resize) -> Preprocess:
    """Bilinear, as the random views of training are; statistics near those of most photographs, on a round scale."""
    side = (image_size, image_size)
    return Preprocess(
        image_size=side, resize=resize, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )


def _augmentation(image_size: int, look: Look) -> AugmentationConfig:
    small = image_size <= 32
    if small and not look.grey:  # coloured thumbnails: turning and zooming would blur what few pixels they have
        return AugmentationConfig(crop_padding=4, label_smoothing=0.1)
    if look.side >= PHOTOGRAPH and not look.grey:
        return AugmentationConfig(crop_scale=_PHOTOGRAPH_CROP, color_jitter=0.2, label_smoothing=0.1)
    return AugmentationConfig(
        rotation=15.0,
        translation=0.1,
        zoom=(0.85, 1.2),
        color_jitter=0.0 if look.grey else 0.2,
        label_smoothing=0.1,
    )


def _choose_batch(num_images: int) -> tuple[int, str]:
    if num_images < 10_000:
        return 64, "so that few images still make many steps"
    return 128, "many images"


def _choose_epochs(num_images: int) -> int:
    """30 at 2,000 images, fewer for more: 13 at 50,000, at least 10; up to 100 for very few. What the data sets of
    benchmarks/training.md need to level off."""
    return int(np.clip(round(30 * (2000 / num_images) ** 0.25), 10, 100))
