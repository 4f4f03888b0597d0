"""What training does to images: AugmentationConfig, `augment` for one image, BatchAugmentation for a batch.

torch and timm are imported where they are used: the config is read by the command line, which must start fast.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from coatnet.data.geometry import Window, draw_window, shifted, show, whole_window
from coatnet.data.preprocess import Preprocess
from coatnet.data.randomness import Draws, mix
from coatnet.errors import ConfigError
from coatnet.frozen import Frozen

if TYPE_CHECKING:
    import torch

Resize = Literal["crop", "stretch", "pad"]
# The mean colour of ImageNet, 255 times IMAGENET_MEAN: what RandAugment fills empty corners with (timm's default).
_IMAGENET_COLOUR = (124, 116, 104)
_GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""


class AugmentationConfig(Frozen):
    """What is done to training images; by default nothing."""

    horizontal_flip: bool = False
    """Mirror left and right, half of the time. Recipes do it where classes survive it, unlike digits and letters."""
    vertical_flip: bool = False
    """Mirror top and bottom, half of the time; for pictures taken from above or through a microscope."""
    crop_padding: int = Field(default=0, ge=0, le=16)
    """Shift by up to this many pixels of the input in both directions, the rest filled by reflection; 4 for 32-pixel
    images (He et al. 2016, section 4.2, there with zeros)."""
    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest share of the image's area that a random crop shows; 1,1 is off, 0.08,1 is usual for
    ImageNet (Szegedy et al. 2015, section 6)."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height of the random crop, relative to the input's; for crop_scale other than
    1,1 (Szegedy et al. 2015, section 6)."""
    rotation: float = Field(default=0.0, ge=0, le=180)
    """Rotate by up to this many degrees either way."""
    translation: float = Field(default=0.0, ge=0, le=1)
    """Move by up to this share of the side, in both directions."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest magnification about the centre; above 1 is nearer, 1,1 is off."""
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    """Change brightness, contrast and saturation each by a factor of up to 1 plus or minus this."""
    randaugment_layers: int = Field(default=0, ge=0, le=16)
    """Operations of RandAugment per image (Cubuk et al. 2020); 0 is off, 2 in the CoAtNet paper (Table 10)."""
    randaugment_magnitude: float = Field(default=15.0, ge=0, le=30)
    """Strength of these operations on the scale on which 10 is the nominal maximum; 15 in the CoAtNet paper (Table
    10), 5 for its pre-training."""
    erasing: float = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle of an image is replaced by the mean colour (Zhong et al. 2020)."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of mixup (Zhang et al. 2018): weights of two images are drawn from Beta(alpha, alpha); 0 is off, 0.8 in the
    CoAtNet paper (Table 10)."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of CutMix (Yun et al. 2019), a rectangle of another image; 0 is off. With mixup too, each step draws one
    of the two."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes; 0.1 in the CoAtNet paper (Table 10)."""

    @field_validator("crop_scale", "crop_aspect", "zoom", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.count(",") != 1:
            raise ValueError(f"{value!r} is not a range; write smallest,largest, as 0.8,1.2")
        return tuple(part.strip() for part in value.split(","))

    @field_validator("crop_scale", "crop_aspect", "zoom")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 100:
            raise ValueError(f"{value[0]:g},{value[1]:g} is not a range; expected smallest,largest, both above 0")
        return value

    @field_validator("crop_scale")
    @classmethod
    def _share(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError(f"crop_scale {value[0]:g},{value[1]:g} is beyond 1, the whole image")
        return value

    @property
    def moves(self) -> bool:
        """Whether the part of the image that is shown is drawn anew each time, so that the whole image is needed."""
        ranges = (self.crop_scale, self.zoom)
        return any(pair != (1.0, 1.0) for pair in ranges) or self.rotation > 0 or self.translation > 0

    @property
    def nearest(self) -> float | None:
        """Largest magnification of what is shown over the whole image, at least 1; None with random crops."""
        return max(1.0, self.zoom[1]) if self.crop_scale == (1.0, 1.0) else None


def augment(
    image: NDArray[np.uint8], size: tuple[int, int], config: AugmentationConfig, seed: int, resize: Resize = "crop"
) -> NDArray[np.uint8]:
    """Prepare one training image: a pure function of the arguments.

    The crop, zoom, rotation and translation are one resampling of the image to `size`; what lies outside the image
    gets the mean colour of its border.

    Args:
        image: (H, W, 3) uint8 RGB of any size.
        size: height and width of the result in pixels.
        config: what may be done; mixup, cutmix, erasing and label smoothing belong to `BatchAugmentation`.
        seed: 64 bits; another seed, another augmentation.
        resize: crop, stretch or pad, as `Preprocess.resize`: what is shown where no random crop is drawn.

    Returns:
        (size[0], size[1], 3) uint8; may share memory with `image`.
    """
    draws = Draws(seed)
    mirror = config.horizontal_flip and draws.integer(2) == 1
    upside_down = config.vertical_flip and draws.integer(2) == 1
    if config.moves:
        image = show(image, size, _draw(image.shape, size, config, draws, resize))
    elif image.shape[:2] != size:
        image = Preprocess(image_size=size, resize=resize).resized(image)
    reach = config.crop_padding
    down = draws.integer(2 * reach + 1) - reach if reach else 0
    right = draws.integer(2 * reach + 1) - reach if reach else 0
    image = shifted(image, down, right, mirror, upside_down)
    if config.color_jitter > 0 or config.randaugment_layers > 0:
        image = np.ascontiguousarray(image)
        picture = Image.fromarray(image)
        if config.color_jitter > 0:
            picture = picture.convert("RGB", _jitter(image, config.color_jitter, draws))
        if config.randaugment_layers > 0:
            transform = randaugment(config.randaugment_layers, config.randaugment_magnitude, min(size))
            with _seeded(draws.integer(1 << 32)):
                picture = transform(picture)
        image = np.array(picture)
    return image


class BatchAugmentation:
    """What training does to a whole batch, on its device: mixup, CutMix, erasing and label smoothing.

    Args:
        config: its `mixup`, `cutmix`, `erasing` and `label_smoothing` are used here.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    def __call__(
        self, images: "torch.Tensor", labels: "torch.Tensor", num_classes: int, seed: int
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Augment a batch: a pure function of the arguments, which are left as they are.

        Args:
            images: (B, 3, H, W) float, normalized, so that the mean colour is 0.
            labels: (B,) int64.
            num_classes: width of the targets.
            seed: any integer; another seed, another augmentation.

        Returns:
            Images of the same shape and (B, num_classes) float32 targets that sum to 1.

        Raises:
            ConfigError: mixup or CutMix with an odd batch: images are mixed in pairs.
        """
        from timm.data.mixup import Mixup, mixup_target
        from timm.data.random_erasing import RandomErasing

        config = self.config
        mixes = config.mixup > 0 or config.cutmix > 0
        if mixes or config.erasing > 0:
            images = images.clone()  # timm's functions change their input
        with _seeded(mix(seed) & 0xFFFFFFFF):
            if mixes:
                if len(images) % 2:
                    raise ConfigError(
                        f"A batch of {len(images)} cannot be mixed in pairs.",
                        hint="Take an even batch_size, or turn mixup and cutmix off.",
                    )
                mixup = Mixup(  # type: ignore[no-untyped-call]
                    mixup_alpha=config.mixup,
                    cutmix_alpha=config.cutmix,
                    label_smoothing=config.label_smoothing,
                    num_classes=num_classes,
                )
                images, targets = mixup(images, labels)
            else:
                targets = mixup_target(  # type: ignore[no-untyped-call]
                    labels, num_classes, lam=1.0, smoothing=config.label_smoothing
                )
            if config.erasing > 0:
                # Erased parts are constant: noise would come from the device's own generator.
                erase = RandomErasing(config.erasing, mode="const", device=images.device)  # type: ignore[no-untyped-call]
                images = erase(images)
        return images, targets.float()


def _draw(
    shape: tuple[int, ...], size: tuple[int, int], config: AugmentationConfig, draws: Draws, resize: str
) -> Window:
    if config.crop_scale == (1.0, 1.0):
        window = whole_window(shape, size, resize)
    else:
        window = draw_window(shape, size, config.crop_scale, config.crop_aspect, draws)
    nearer = draws.uniform(*config.zoom)
    reach = config.translation
    return Window(
        x=window.x + draws.uniform(-reach, reach) * window.width,
        y=window.y + draws.uniform(-reach, reach) * window.height,
        width=window.width / nearer,
        height=window.height / nearer,
        angle=math.radians(draws.uniform(-config.rotation, config.rotation)),
    )


def _jitter(image: NDArray[np.uint8], strength: float, draws: Draws) -> tuple[float, ...]:
    """Brightness, then contrast about the image's mean grey, then saturation, each drawn, as one 3x4 colour matrix.

    One pass over the pixels in the place of seven, rounded and cut to 0..255 once, at the end.
    """
    brightness, contrast, saturation = (draws.uniform(1 - strength, 1 + strength) for _ in range(3))
    height, width, _ = image.shape
    # Sums of columns first: NumPy is ten times as slow over both axes at once.
    sums = image.reshape(height, -1).sum(axis=0, dtype=np.uint32).reshape(width, 3).sum(axis=0)
    mean_grey = sum(weight * float(total) for weight, total in zip(_GREY, sums, strict=True)) / (height * width)
    gain, offset = brightness * contrast, (1 - contrast) * brightness * mean_grey
    shares = [gain * (1 - saturation) * weight for weight in _GREY]
    red, green, blue = shares
    own = gain * saturation
    return red + own, green, blue, offset, red, green + own, blue, offset, red, green, blue + own, offset


@lru_cache(maxsize=4)
def randaugment(num_layers: int, magnitude: float, side: int) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment; each operation is applied with probability 0.5, the mean of the original's 0.2..0.8."""
    from timm.data.auto_augment import rand_augment_transform

    # 0.45 of the side is timm's reach of a translation at magnitude 10.
    extent = {"translate_const": int(side * 0.45), "img_mean": _IMAGENET_COLOUR}
    transform = rand_augment_transform(f"rand-m{magnitude:g}-n{num_layers}", extent)
    return cast(Callable[[Image.Image], Image.Image], transform)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of `random` and NumPy, which timm draws from, and put their states back after."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
