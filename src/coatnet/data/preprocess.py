"""Preprocess: how an image becomes the network's input, stored with the model. No torch."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from coatnet.frozen import Frozen

# Mean and standard deviation of ImageNet-1K's training images on the scale 0..1, as used since
# "Deep residual learning" was ported to torch (torchvision reference training, timm.data.constants).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALLEST_SIDE = 32
LARGEST_SIDE = 2048
"""Twice the largest side that networks of this kind were published for (512 in the CoAtNet paper, 1024 elsewhere). The
bias of attention grows with the fourth power of the side: at 2048 px that of coatnet_0 takes 13 GB a layer."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocess(Frozen):
    """From an RGB image of any size to the input of the network: one function for evaluation and prediction."""

    image_size: tuple[int, int]
    """Height and width of the input in pixels; one number means a square."""
    resize: Literal["crop", "stretch", "pad"] = "crop"
    """crop: the shorter side is resized to size / crop_fraction and the centre cut out. stretch: both sides are resized
    so, the aspect ratio lost. pad: the whole image fits, and the rest is filled with the mean colour."""
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the resized image that the centre crop keeps: of the shorter side for resize=crop, of both sides for
    resize=stretch."""
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    """Pillow's filter; all three are antialiased when they shrink."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of red, green and blue on the scale 0..1, subtracted."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of red, green and blue on the scale 0..1, divided by."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @field_validator("image_size")
    @classmethod
    def _within_limits(cls, value: tuple[int, int]) -> tuple[int, int]:
        for side in value:
            if side > LARGEST_SIDE:
                raise ValueError(f"image_size {side} is above {LARGEST_SIDE}, the largest that is allowed")
            if side < SMALLEST_SIDE:
                raise ValueError(f"image_size {side} is below {SMALLEST_SIDE}, the smallest that five halvings allow")
        return value

    @field_validator("mean")
    @classmethod
    def _on_unit_scale(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 <= channel <= 1 for channel in value):
            raise ValueError(f"mean {value} is not on the scale 0..1; divide values of 0..255 by 255")
        return value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 < channel <= 1 for channel in value):
            raise ValueError(f"std {value} is not above 0 and at most 1; divide values of 0..255 by 255")
        return value

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image to `image_size`.

        Args:
            image: (H, W, 3) uint8 RGB of any size.

        Returns:
            (image_size[0], image_size[1], 3) uint8. `image` itself if it has that size already.
        """
        height, width = self.image_size
        if image.shape[:2] == self.image_size:
            return image
        picture = Image.fromarray(image)
        resample = _FILTERS[self.interpolation]
        if self.resize == "stretch":
            left, top = (side * (1 - self.crop_fraction) / 2 for side in picture.size)
            box = (left, top, picture.width - left, picture.height - top)
            return np.array(picture.resize((width, height), resample, box=box))
        if self.resize == "pad":
            scale = min(height / picture.height, width / picture.width)
            inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            canvas = Image.new("RGB", (width, height), tuple(round(255 * channel) for channel in self.mean))
            canvas.paste(picture.resize(inner, resample), ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return np.array(canvas)
        # The window of the image that the crop shows, resized at once: nothing is computed and then cut away.
        scale = max(height / picture.height, width / picture.width) / self.crop_fraction
        window_width, window_height = min(picture.width, width / scale), min(picture.height, height / scale)
        left, top = (picture.width - window_width) / 2, (picture.height - window_height) / 2
        box = (left, top, left + window_width, top + window_height)
        return np.array(picture.resize((width, height), resample, box=box))

    def normalized(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale to 0..1, subtract the mean, divide by the standard deviation.

        Args:
            images: (B, H, W, 3) uint8.

        Returns:
            (B, 3, H, W) float32, C-contiguous.
        """
        std: NDArray[np.float32] = np.array(self.std, dtype=np.float32)
        scale: NDArray[np.float32] = np.float32(1 / 255) / std
        shift: NDArray[np.float32] = np.array(self.mean, dtype=np.float32) / std
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
        channels_first *= scale[:, None, None]
        channels_first -= shift[:, None, None]
        return channels_first

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One image (H, W, 3) uint8 of any size to (3, image_size[0], image_size[1]) float32."""
        normalized: NDArray[np.float32] = self.normalized(self.resized(image)[None])[0]
        return normalized
