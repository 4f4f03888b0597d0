"""How one training batch comes about from its step: the same wherever it is prepared. No torch."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.data.augmentation import AugmentationConfig, augment
from coatnet.data.cache import DecodedImages, read_image
from coatnet.data.images import ImageError, ImageLimits
from coatnet.data.preprocess import Preprocess
from coatnet.data.randomness import permutation, position_seed
from coatnet.data.samples import Source


@dataclass
class Prepared:
    """Images (B, H, W, 3) uint8 and labels (B,) int64 of a step, and what was unreadable on the way to them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    unreadable: list[tuple[str, str]]
    failure: str = ""


@dataclass
class Preparation:
    """The data set that the workers see: its items are whole batches, by step."""

    source: Source
    preprocess: Preprocess
    augmentation: AugmentationConfig
    seed: int
    batch_size: int
    limits: ImageLimits
    decoded: DecodedImages | None = field(default=None, repr=False)

    def load(self, index: int) -> NDArray[np.uint8]:
        """What of an image augmentation starts from, whether it is kept in memory or made anew each time.

        Where nothing moves it is the image as evaluation sees it. Otherwise a large image is made smaller here, once,
        not in each view; a large JPEG is not even decoded in full. Turned, moved and zoomed it keeps the pixels that
        the nearest view shows. Random crops keep twice the input's: one of a quarter of the area still has every pixel
        of the input, and a photograph takes a tenth of the memory.
        """
        if not self.augmentation.moves:
            return self.preprocess.resized(read_image(self.source, index, self.limits))
        nearest = self.augmentation.nearest
        enough = math.ceil(max(self.preprocess.image_size) * (nearest or 2))
        image = read_image(self.source, index, self.limits, enough)
        excess = min(image.shape[:2]) / enough
        if nearest and excess > 1:
            size = (round(image.shape[1] / excess), round(image.shape[0] / excess))
            return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        return np.array(Image.fromarray(image).reduce(int(excess))) if excess >= 2 else image

    def __getitem__(self, step: int) -> Prepared:
        """The batch of a step."""
        size = self.preprocess.image_size
        images = np.empty((self.batch_size, *size, 3), dtype=np.uint8)
        labels = np.empty(self.batch_size, dtype=np.int64)
        unreadable: list[tuple[str, str]] = []
        for place in range(self.batch_size):
            position = step * self.batch_size + place
            found = self._readable(position, unreadable)
            if found is None:
                return Prepared(images[:0], labels[:0], unreadable, "None of the training images can be read.")
            image, index = found
            seed = position_seed(self.seed, position)
            images[place] = augment(image, size, self.augmentation, seed, self.preprocess.resize)
            labels[place] = self.source.labels[index]
        return Prepared(images, labels, unreadable)

    def _readable(self, position: int, unreadable: list[tuple[str, str]]) -> tuple[NDArray[np.uint8], int] | None:
        """The image for `position` and its index; what cannot be read on the way to it goes into `unreadable`."""
        num_samples = len(self.source)
        order = permutation(self.seed, position // num_samples, num_samples)
        for further in range(num_samples):
            index = int(order[(position + further) % num_samples])
            try:
                if self.decoded is not None:
                    return self.decoded[index], index
                return self.load(index), index
            except ImageError as error:
                unreadable.append((self.source.names[index], error.code))
        return None
