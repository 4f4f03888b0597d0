"""Recipes for ImageNet and beyond: Table 10 of the paper, column by column, and what public re-trainings do since."""

from __future__ import annotations

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig
from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import member
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig
from coatnet.training.look import OpenedData, opened

DEPTH_1K = {"coatnet_0": 0.2, "coatnet_1": 0.3, "coatnet_2": 0.5, "coatnet_3": 0.7}
"""Stochastic depth on ImageNet-1K, in pre-training and in fine-tuning (Table 10, one cell for both columns)."""
# Share of the steps that warm up, so that it fits other data too. ImageNet-1K: 10,000 of 300 epochs of 1.28 M images in
# batches of 4096. ImageNet-21K: 5 of 90 epochs. JFT: 20,000 of 14 epochs of 300 M images in batches of 4096.
_WARMUP_1K, _WARMUP_21K, _WARMUP_JFT = 10_000 / 93_800, 5 / 90, 20_000 / 1_025_000
# A random crop of at least 8 % of the area, as ImageNet networks are trained since Szegedy et al. 2015; the paper says
# only that its pre-training crops ("center crop: true").
_CROPS = {"horizontal_flip": True, "crop_scale": (0.08, 1.0)}


def imagenet_1k(
    data: str | DataConfig | OpenedData,
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
) -> TrainConfig:
    """Pre-training on ImageNet-1K (Table 10, first column): 300 epochs of batches of 4096, AdamW at 1e-3 falling to
    1e-5 on a cosine, weight decay 0.05, RandAugment 2 x 15, mixup 0.8, label smoothing 0.1, stochastic depth 0.2, 0.3,
    0.5 and 0.7 for CoAtNet-0 to -3.

    Args:
        data: 1,000 classes or any others.
        model: CoAtNet-0 to -3; default: coatnet_0.
        image_size: height and width in pixels; default: the member's, 224.
        batch_size: images per step; the rate is changed in proportion.

    Raises:
        ConfigError: the table has no values for this member.
        DataError: the data cannot be read.
    """
    depth = _of_member("imagenet_1k", model, DEPTH_1K)
    return _pretraining(
        data,
        (depth, image_size, batch_size),
        AugmentationConfig(**_CROPS, randaugment_layers=2, randaugment_magnitude=15, mixup=0.8, label_smoothing=0.1),
        OptimizerConfig(learning_rate=1e-3, warmup=_WARMUP_1K, weight_decay=0.05),
        300,
    )


def imagenet_21k(
    data: str | DataConfig | OpenedData,
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
) -> TrainConfig:
    """Pre-training on ImageNet-21K (Table 10, third column): 90 epochs of batches of 4096, sigmoid loss, AdamW at 1e-3
    falling to 1e-5 on a line, weight decay 0.01, label smoothing 0.0001, stochastic depth 0.3, 0.5 and 0.7 for
    CoAtNet-2 to -4, RandAugment 2 x 5 for -4 ("PT-RA") alone.

    Args: as `imagenet_1k`; default: coatnet_2.
    """
    depth = _of_member("imagenet_21k", model or "coatnet_2", {"coatnet_2": 0.3, "coatnet_3": 0.5, "coatnet_4": 0.7})
    augments = {"randaugment_layers": 2, "randaugment_magnitude": 5} if depth[0] == "coatnet_4" else {}
    return _pretraining(
        data,
        (depth, image_size, batch_size),
        AugmentationConfig(**_CROPS, **augments, label_smoothing=1e-4),
        OptimizerConfig(learning_rate=1e-3, schedule="linear", loss="sigmoid", warmup=_WARMUP_21K, weight_decay=0.01),
        90,
    )


def jft(
    data: str | DataConfig | OpenedData,
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
) -> TrainConfig:
    """Few epochs over very many images, as the paper's pre-training on JFT-300M (Table 10, fifth column): 14 epochs of
    batches of 4096, sigmoid loss, AdamW at 1e-3 (5e-4 for CoAtNet-4 and -5) falling to 1e-5 on a line, weight decay
    0.01, RandAugment 2 x 5, label smoothing 0.0001, stochastic depth 0, 0.1 and 0 for CoAtNet-3 to -5. The values of
    -6 and -7 are not published.

    Args: as `imagenet_1k`; default: coatnet_3.
    """
    depth = _of_member("jft", model or "coatnet_3", {"coatnet_3": 0.0, "coatnet_4": 0.1, "coatnet_5": 0.0})
    rate = 1e-3 if depth[0] == "coatnet_3" else 5e-4
    return _pretraining(
        data,
        (depth, image_size, batch_size),
        AugmentationConfig(**_CROPS, randaugment_layers=2, randaugment_magnitude=5, label_smoothing=1e-4),
        OptimizerConfig(learning_rate=rate, schedule="linear", loss="sigmoid", warmup=_WARMUP_JFT, weight_decay=0.01),
        14,
    )


def imagenet_1k_modern(
    data: str | DataConfig | OpenedData,
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
) -> TrainConfig:
    """ImageNet-1K as timm's CoAtNets (tag `sw_in1k`) were trained: the recipe of Swin (Liu et al. 2021, A2.1) with an
    average of the weights. 300 epochs of batches of 1024, AdamW at 1e-3 falling to 1e-5 on a cosine after 20 epochs of
    warm-up, weight decay 0.05, RandAugment 2 x 9, mixup 0.8, CutMix 1, erasing 0.25, label smoothing 0.1, average
    0.9999. Stochastic depth is the paper's. timm says which parts it took, and prints no values of its own.

    Args: as `imagenet_1k`.
    """
    depth = _of_member("imagenet_1k_modern", model, DEPTH_1K)
    return _pretraining(
        data,
        (depth, image_size, batch_size),
        AugmentationConfig(
            **_CROPS,
            randaugment_layers=2,
            randaugment_magnitude=9,
            mixup=0.8,
            cutmix=1.0,
            erasing=0.25,
            label_smoothing=0.1,
        ),
        OptimizerConfig(learning_rate=1e-3, warmup=20 / 300, weight_decay=0.05, ema=0.9999),
        300,
        batch=1024,
    )


def _of_member(recipe: str, model: str | None, depths: dict[str, float]) -> tuple[str, float]:
    """The member and its stochastic depth.

    Raises:
        ConfigError: the recipe has no values for it.
    """
    name = model or "coatnet_0"
    if name not in depths:
        raise ConfigError(
            f"recipe {recipe} has values for {', '.join(depths)}, not for {name}", "choose one of them by --model"
        )
    return name, depths[name]


def _pretraining(  # noqa: PLR0913 (parts of one table)
    data: str | DataConfig | OpenedData,
    asked: tuple[tuple[str, float], int | None, int | None],
    augmentation: AugmentationConfig,
    optimizer: OptimizerConfig,
    epochs: int,
    batch: int = 4096,
) -> TrainConfig:
    """What the recipes share: the member at its size, ImageNet's statistics, the rate in proportion to the batch."""
    (name, depth), image_size, batch_size = asked
    found = opened(data)
    config, splits = found.config, found.splits
    class_names = splits.train.class_names
    network: CoAtNetConfig = member(name)  # type: ignore[assignment]  # the tables have no guests
    network = network.replace(num_classes=len(class_names), stochastic_depth=depth)
    if image_size is not None:
        network = network.replace(image_size=image_size)
    side = network.image_size
    scale = (batch_size or batch) / batch
    rates = {"learning_rate": optimizer.learning_rate * scale, "final_learning_rate": 1e-5 * scale}
    choices = (
        f"data: {len(splits.train)} images to train on, {len(splits.val)} to validate; {len(class_names)} classes",
        *splits.notes,
        f"model: {name}",
        f"stochastic depth: {depth:g}",
        f"batch: {batch_size or batch} images",
        f"learning rate: {rates['learning_rate']:g}, in proportion to the batch",
        f"length: {epochs} epochs unless another is asked for",
    )
    return TrainConfig(
        data=config,
        model=network,
        # The lineage's evaluation crop: size / (size + 32), bicubic (google-research/maxvit).
        preprocess=Preprocess(image_size=(side, side), crop_fraction=side / (side + 32)),
        augmentation=augmentation,
        optimizer=optimizer.replace(**rates),
        run=RunConfig(epochs=epochs, batch_size=batch_size or batch),
        class_names=class_names,
        choices=choices,
    )
