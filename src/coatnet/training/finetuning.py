"""The recipe that starts from what another run learned: the paper's values, and a short form for few images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig, Source
from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import PAPER, ModelConfig
from coatnet.model.guests import GuestConfig
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig
from coatnet.training.distance import NEAR, statistics_distance
from coatnet.training.imagenet import DEPTH_1K
from coatnet.training.initial import Pretrained, find_initial
from coatnet.training.look import Look, OpenedData, data_choices, flip_choice, opened

MANY_IMAGES = 100_000
"""From here on the paper's form: its 30 epochs of batches of 512 are then at least 5,860 steps. At 10,000 images they
would be 586, too few for its rate and its average to get anywhere."""
PAPER_DEPTH = {**DEPTH_1K, "coatnet_4": 0.7}
"""Stochastic depth in fine-tuning on ImageNet-1K (Table 10: -0 to -3 in its second column, -4 in its fourth)."""
_NEAR: dict[str, Any] = {"learning_rate": 3e-4, "batch_norms": "kept"}
_FAR: dict[str, Any] = {"learning_rate": 3e-3, "new_head": "random"}
"""For convolutional networks: of 1e-4 to 1e-2 the best rates on held-out images (benchmarks/finetuning.md). A probe
of features that have to move far only gives the first steps a larger loss."""
FEW_TO_VALIDATE = 100
"""With fewer validation images one of them moves the accuracy by more than 1 %: nothing is chosen by it."""


def finetune(
    data: str | DataConfig | OpenedData,
    init: str | Path,
    *,
    model: str | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
) -> TrainConfig:
    """Train on from the weights of a classifier, on the same classes or others.

    From 100,000 images on these are the values of the paper (Table 10): a constant rate of 5e-5, batches of 512, 30
    epochs, weight decay 1e-8, gradient clip 1, an average of 0.9999, label smoothing 0.1, its stochastic depth for each
    member, and no crop: the whole image is resized in training and evaluation. With fewer images a short form takes its
    place, see benchmarks/transfer.md.

    Mean, std and interpolation are the source's; so is the resizing, but that a centre crop shows the whole image.

    Args:
        data: a path, "digits", a DataConfig, or what is open already.
        init: a classifier folder, a run folder, a weights file, or the name of published weights, "timm/NAME.TAG".
        model: the member or guest that a weights file belongs to.
        image_size: height and width that images are fed at; default: the source's. The tables of a member keep their
            size; a guest is rebuilt.
        batch_size: images per step instead of the choice.

    Raises:
        DataError: the data cannot be read.
        ModelFileError: the source is missing, damaged or refused.
        ConfigError: a weights file without its member, or an image size that the network cannot take.
    """
    source = find_initial(init, model)
    found = opened(data)
    config, splits = found.config, found.splits
    num_images, look, class_names = len(splits.train), found.look, splits.train.class_names
    initial = source.record(class_names)
    preprocess = _preprocess(source, image_size, look)
    network = _network(source.config, preprocess).replace(num_classes=len(class_names))
    choices = [*data_choices(splits, look), f"initial weights: {initial.source}", f"head: {initial.head}"]
    choices += _size_choices(network, preprocess, asked=image_size is not None)
    if source.preprocess is None:
        choices.append("preprocessing: a weights file does not tell it; that of training from scratch")
    few = num_images < MANY_IMAGES
    network = network if few else network.replace(stochastic_depth=_paper_depth(network))
    batch = batch_size or (_few_batch(num_images) if few else 512)
    optimizer, run = _few(num_images, len(splits.val), batch) if few else _paper(batch)
    form = f"short form, {num_images} images are few" if few else "the paper's values (Table 10)"
    choices += [
        f"recipe: fine-tuning, {form}",
        flip_choice(found.mirroring),
        f"batch: {batch} images{', as asked' if batch_size else ''}",
        f"length: {run.epochs:g} epochs unless another is asked for",
    ]
    if run.patience:
        choices.append(f"early end: after {run.patience} evaluations without a better one; the best is kept")
    run_config = TrainConfig(
        data=config,
        model=network,
        preprocess=preprocess,
        augmentation=_augmentation(few).replace(horizontal_flip=found.mirroring.allowed),
        optimizer=optimizer,
        run=run,
        class_names=class_names,
        initial=initial,
        choices=tuple(choices),
    )
    return _paced(run_config, splits.train) if few else run_config


def _paced(config: TrainConfig, train: Source) -> TrainConfig:
    """The rate that images ask for, few as they are: near to those of the initial weights a low one, that keeps what
    they learned; far from them a high one (benchmarks/finetuning.md)."""
    distance = statistics_distance(config, train)
    if distance is None:
        return config
    near = distance <= NEAR
    where = "near to" if near else "far from"
    optimizer = OptimizerConfig.model_validate({**config.optimizer.model_dump(), **(_NEAR if near else _FAR)})
    told = [
        f"images: {where} those of the initial weights, by batch norms at {distance:.2f}; near ends at {NEAR:g}",
        f"learning rate: {optimizer.learning_rate:g}, as the images are {where} those",
    ]
    return config.replace(optimizer=optimizer, choices=(*config.choices, *told))


def _paper(batch: int) -> tuple[OptimizerConfig, RunConfig]:
    """Table 10, the columns of fine-tuning."""
    rate = 5e-5
    optimizer = OptimizerConfig(
        learning_rate=rate, final_learning_rate=rate, warmup=0.0, weight_decay=1e-8, gradient_clip=1.0, ema=0.9999
    )
    return optimizer, RunConfig(epochs=30, batch_size=batch)


def _few(num_images: int, num_val: int, batch: int) -> tuple[OptimizerConfig, RunConfig]:
    """What the measurements of benchmarks/transfer.md chose: slower lower layers cost accuracy there."""
    optimizer = OptimizerConfig(learning_rate=1e-3, ema=0.99, new_head="probe")
    patience = 5 if num_val >= FEW_TO_VALIDATE else None
    return optimizer, RunConfig(epochs=_few_epochs(num_images), batch_size=batch, patience=patience)


def _few_batch(num_images: int) -> int:
    return 32 if num_images < 1000 else 64


def _few_epochs(num_images: int) -> int:
    """As many as from scratch: 65 at 90 images, 30 at 2,000. With 40 at 90 images it was not done yet."""
    return int(np.clip(round(30 * (2000 / num_images) ** 0.25), 10, 100))


def _paper_depth(network: ModelConfig) -> float:
    """The paper's for its members, else what the source was trained with."""
    if isinstance(network, GuestConfig):
        return network.stochastic_depth
    names = [name for name in PAPER_DEPTH if PAPER[name].stages == network.stages]
    return PAPER_DEPTH[names[0]] if names else network.stochastic_depth


def _network(config: ModelConfig, preprocess: Preprocess) -> ModelConfig:
    """A member runs at any size; a guest is built for the size that it is fed at.

    Raises:
        ConfigError: an oblong size for a guest.
    """
    if isinstance(config, CoAtNetConfig):
        return config
    height, width = preprocess.image_size
    if height != width:
        raise ConfigError(f"--image-size: {config.guest} cannot be built for {height} x {width} px", "give one number")
    return config.replace(image_size=height)


def _preprocess(source: Pretrained, image_size: tuple[int, int] | None, look: Look) -> Preprocess:
    side = source.config.image_size
    # A weights file of ours comes from training from scratch, whose statistics these are.
    known = source.preprocess or Preprocess(
        image_size=(side, side), interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    resize = "stretch" if known.resize == "crop" and look.oblong else known.resize
    return known.replace(image_size=image_size or known.image_size, resize=resize, crop_fraction=1.0)


def _size_choices(network: ModelConfig, preprocess: Preprocess, asked: bool) -> list[str]:
    height, width = preprocess.image_size
    resized = (height, width) != (network.image_size, network.image_size)
    tables = f"; the relative tables, made for {network.image_size} px, are resized as it runs" if resized else ""
    return [
        f"image size: {height} x {width} px, {'as asked' if asked else 'what the source is fed with'}{tables}",
        f"resize: {preprocess.resize} of the whole image",
    ]


def _augmentation(few: bool) -> AugmentationConfig:
    """No crop (Table 10). The paper found that an augmentation which pre-training did not have should not come in now,
    and what the source had is unknown: many images get only flips, where classes survive them; few need the small moves
    of `small_data`."""
    if not few:
        return AugmentationConfig(label_smoothing=0.1)
    return AugmentationConfig(rotation=15.0, translation=0.1, zoom=(0.85, 1.2), label_smoothing=0.1)
