"""The published CoAtNets: each tag of which timm has weights, with what is known of it. A table; imports no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

Channels = tuple[float, float, float]
HALF: Channels = (0.5, 0.5, 0.5)
IMAGENET: Channels = (0.485, 0.456, 0.406)
INTERPOLATION = "bicubic"
"""The filter that resizes images for all of them."""


class Entry(NamedTuple):
    """What is known of published weights before they are here."""

    parameters: int
    """Trainable numbers, with the head."""
    multiply_adds: int
    """For one image; counted as `coatnet.model.size` does."""
    top1: float | None
    """Percent on ImageNet-1K's validation images, as timm's results-imagenet.csv reports it: one centre crop at
    `image_size`. None for weights with the classes of ImageNet-12K."""
    num_classes: int
    """1000 of ImageNet-1K, or 11821 of ImageNet-12K."""
    image_size: int
    """Height and width, pixels."""
    mean: Channels
    """Of the channels, on the scale 0..1."""
    crop_fraction: float
    """Share of the resized image that the crop keeps."""
    crop_mode: Literal["center", "squash"]
    """center: resize the shorter side and cut. squash: resize all of the image."""

    @property
    def std(self) -> Channels:
        """Standard deviation of the channels that belongs to `mean`."""
        return HALF if self.mean == HALF else (0.229, 0.224, 0.225)


CATALOGUE = {
    "timm/coatnet_nano_rw_224.sw_in1k": Entry(15_141_244, 2_382_715_392, 81.70, 1000, 224, HALF, 0.9, "center"),
    "timm/coatnext_nano_rw_224.sw_in1k": Entry(14_701_244, 2_461_268_480, 82.00, 1000, 224, HALF, 0.9, "center"),
    "timm/coatnet_rmlp_nano_rw_224.sw_in1k": Entry(15_145_116, 2_594_052_864, 82.06, 1000, 224, HALF, 0.9, "center"),
    "timm/coatnet_0_rw_224.sw_in1k": Entry(27_435_562, 4_406_300_928, 82.40, 1000, 224, HALF, 0.95, "center"),
    "timm/coatnet_bn_0_rw_224.sw_in1k": Entry(27_435_562, 4_647_145_728, 82.39, 1000, 224, IMAGENET, 0.95, "center"),
    "timm/coatnet_rmlp_1_rw_224.sw_in1k": Entry(41_691_982, 7_807_099_392, 83.35, 1000, 224, HALF, 0.95, "center"),
    "timm/coatnet_1_rw_224.sw_in1k": Entry(41_721_502, 7_992_160_512, 83.62, 1000, 224, HALF, 0.95, "center"),
    "timm/coatnet_rmlp_1_rw2_224.sw_in12k_ft_in1k": Entry(
        41_724_622, 8_066_538_752, 84.94, 1000, 224, HALF, 0.95, "center"
    ),
    "timm/coatnet_2_rw_224.sw_in12k_ft_in1k": Entry(73_868_400, 15_019_256_832, 86.58, 1000, 224, HALF, 0.95, "center"),
    "timm/coatnet_rmlp_2_rw_224.sw_in1k": Entry(73_881_264, 15_114_828_800, 84.61, 1000, 224, HALF, 0.95, "center"),
    "timm/coatnet_rmlp_2_rw_224.sw_in12k_ft_in1k": Entry(
        73_881_264, 15_114_828_800, 86.54, 1000, 224, HALF, 0.95, "center"
    ),
    "timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k": Entry(
        73_881_264, 47_488_266_240, 87.39, 1000, 384, HALF, 1.0, "squash"
    ),
    "timm/coatnet_rmlp_1_rw2_224.sw_in12k": Entry(50_045_971, 8_074_849_280, None, 11821, 224, HALF, 0.95, "center"),
    "timm/coatnet_2_rw_224.sw_in12k": Entry(84_959_925, 15_030_337_536, None, 11821, 224, HALF, 0.95, "center"),
    "timm/coatnet_rmlp_2_rw_224.sw_in12k": Entry(84_972_789, 15_125_909_504, None, 11821, 224, HALF, 0.95, "center"),
    "timm/coatnet_3_rw_224.sw_in12k": Entry(181_805_305, 33_337_614_336, None, 11821, 224, HALF, 0.95, "center"),
}
"""By name, those with ImageNet-1K's classes first, then from small to large."""

DEFAULT = "timm/coatnet_2_rw_224.sw_in12k_ft_in1k"
"""The most accurate one at 224 px; the one at 384 px is 0.8 points better and takes three times as long."""
