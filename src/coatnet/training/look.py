"""The data that a recipe chooses from, opened once, and a glance at it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from coatnet.data.images import ImageError, decode
from coatnet.data.levels import NARROW, span
from coatnet.data.samples import some
from coatnet.data.sources import DataConfig, Source, Splits, open_data
from coatnet.errors import DataError
from coatnet.training.mirroring import Mirroring, find_mirroring

SAMPLED = 64
"""Images looked at to tell size and colour: enough for a median, decoded in well under a second."""
PHOTOGRAPH = 128
"""Shorter side in pixels from which images are taken for photographs, which published weights know."""


class Look(NamedTuple):
    """What a glance at some training images tells."""

    side: int
    """Median shorter side, pixels."""
    grey: bool
    """No image has colour."""
    oblong: bool
    """Most are at least a quarter longer than wide, or the other way."""
    looked_at: int
    """How many images."""
    narrow: tuple[str, ...]
    """Names of those that use fewer than `levels.NARROW` of 256 levels."""


@dataclass(frozen=True)
class OpenedData:
    """A data set that several look at one after the other."""

    config: DataConfig
    splits: Splits

    @cached_property
    def look(self) -> Look:
        """What a glance at its training images tells."""
        return look_at(self.splits.train)

    @cached_property
    def mirroring(self) -> Mirroring:
        """Whether training may mirror its images."""
        if self.look.grey:
            return Mirroring(False, "grey images are often signs or text")
        return find_mirroring(self.splits.train)


def opened(data: str | DataConfig | OpenedData) -> OpenedData:
    """The data, opened if it is not yet.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(data, OpenedData):
        return data
    config = data if isinstance(data, DataConfig) else DataConfig(path=data)
    return OpenedData(config, open_data(config))


def look_at(source: Source) -> Look:
    """Decode some images, spread over the source."""
    sides, oblong, narrow, grey = [], [], [], True
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)):
        try:
            image = decode(source.read(int(index)))
        except ImageError:
            continue
        if span(image) < NARROW:
            narrow.append(source.names[int(index)])
        height, width = image.shape[:2]
        sides.append(min(height, width))
        oblong.append(max(height, width) >= 1.25 * min(height, width))
        grey = grey and bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
    if not sides:
        raise DataError(
            f"none of {SAMPLED} training images could be read",
            "coatnet reads JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and PPM",
        )
    return Look(int(np.median(sides)), grey, sum(oblong) > len(oblong) / 2, len(sides), tuple(narrow))


def flip_choice(mirroring: Mirroring) -> str:
    """Whether images are mirrored and why, for people."""
    return f"horizontal flip: {'on' if mirroring.allowed else 'off'}, {mirroring.reason}"


def data_choices(splits: Splits, look: Look) -> list[str]:
    """What there is to train on, for people."""
    counts = (
        f"data: {len(splits.train)} images to train on, {len(splits.val)} to validate, "
        f"{len(splits.test) if splits.test else 'none'} to test; {len(splits.train.class_names)} classes: "
        f"{some(splits.train.class_names)}"
    )
    if not look.narrow:
        return [counts, *splits.notes]
    few = f"{len(look.narrow)} of {look.looked_at} images looked at use fewer than {NARROW} of 256: {some(look.narrow)}"
    return [counts, f"levels: {few}", *splits.notes]
