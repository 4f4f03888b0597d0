"""Which part of an image is shown, and how it gets to the input's size in one resampling. No torch."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.data.randomness import Draws

# Above this many source pixels per output pixel an affine transform, which looks at 2x2 source pixels, skips some:
# the image is shrunk first, with a filter that skips none.
_LARGEST_STEP = 1.25


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels of the image.

    Attributes:
        x, y: its centre; the image's top left corner is 0, 0.
        width, height: its sides; it may reach beyond the image.
        angle: how far it is turned about its centre, in radians.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0


def whole_window(shape: tuple[int, ...], size: tuple[int, int], resize: str) -> Window:
    """What `resize` ("crop", "stretch" or "pad") shows of an image when nothing is drawn."""
    height, width = shape[0], shape[1]
    if resize == "stretch":
        return Window(width / 2, height / 2, width, height)
    output_aspect = size[1] / size[0]
    choose = max if resize == "pad" else min
    window_height = choose(height, width / output_aspect)
    return Window(width / 2, height / 2, window_height * output_aspect, window_height)


def draw_window(
    shape: tuple[int, ...],
    size: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    draws: Draws,
) -> Window:
    """The window of a random crop: its share of the area from `scale`, its shape from `aspect` times the output's.

    Sides that would be longer than the image's are cut to them, so that one draw is always enough.
    """
    height, width = shape[0], shape[1]
    area = height * width * draws.uniform(*scale)
    ratio = size[1] / size[0] * math.exp(draws.uniform(math.log(aspect[0]), math.log(aspect[1])))
    window_width = min(math.sqrt(area * ratio), width)
    window_height = min(math.sqrt(area / ratio), height)
    left = draws.uniform(0, width - window_width)
    top = draws.uniform(0, height - window_height)
    return Window(left + window_width / 2, top + window_height / 2, window_width, window_height)


def show(image: NDArray[np.uint8], size: tuple[int, int], window: Window) -> NDArray[np.uint8]:
    """Resample a window of `image` (H, W, 3) to (size[0], size[1], 3) uint8, bilinear and without aliasing."""
    height, width = size
    picture = Image.fromarray(image)
    left, top = window.x - window.width / 2, window.y - window.height / 2
    right, bottom = left + window.width, top + window.height
    slack = 1e-6  # a side cut to the image's may end beyond it by a rounding
    inside = left >= -slack and top >= -slack and right <= picture.width + slack and bottom <= picture.height + slack
    if window.angle == 0 and inside:
        box = (max(left, 0.0), max(top, 0.0), min(right, picture.width), min(bottom, picture.height))
        return np.array(picture.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
    fill = _border_colour(image)
    step_x, step_y = window.width / width, window.height / height
    x, y = window.x, window.y
    if max(step_x, step_y) > _LARGEST_STEP:
        small_width = max(1, round(picture.width / max(step_x, 1.0)))
        small_height = max(1, round(picture.height / max(step_y, 1.0)))
        shrink_x, shrink_y = small_width / picture.width, small_height / picture.height
        picture = picture.resize((small_width, small_height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        x, y, step_x, step_y = x * shrink_x, y * shrink_y, step_x * shrink_x, step_y * shrink_y
    cosine, sine = math.cos(window.angle), math.sin(window.angle)
    # Output pixel (i, j) shows source (a i + b j + c, d i + e j + f); Pillow takes both at the centres of pixels.
    a, b = step_x * cosine, -step_x * sine
    d, e = step_y * sine, step_y * cosine
    matrix = (a, b, x - a * width / 2 - b * height / 2, d, e, y - d * width / 2 - e * height / 2)
    moved = picture.transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )
    return np.array(moved)


def shifted(image: NDArray[np.uint8], down: int, right: int, mirror: bool, upside_down: bool) -> NDArray[np.uint8]:
    """Shift `image` (H, W, 3) by whole pixels, filled by reflection, then mirror it."""
    if down or right:
        rows = _reflected(image.shape[0], -down)
        columns = _reflected(image.shape[1], -right)
        if upside_down:
            rows = rows[::-1]
        if mirror:
            columns = columns[::-1]
        return image[rows[:, None], columns]
    if upside_down:
        image = image[::-1]
    if not mirror:
        return image
    pixels = np.ascontiguousarray(image).view("V3")  # (H, W, 1): whole pixels move, in half the time of their bytes
    return np.ascontiguousarray(pixels[:, ::-1]).view(np.uint8)


@lru_cache(maxsize=256)
def _reflected(length: int, offset: int) -> NDArray[np.int64]:
    """Indices offset, offset + 1, ... (length,), those outside 0..length-1 reflected at the outermost pixels."""
    indices: NDArray[np.int64] = np.abs(np.arange(length) + offset)
    folded: NDArray[np.int64] = (length - 1) - np.abs((length - 1) - indices)
    return folded


def _border_colour(image: NDArray[np.uint8]) -> tuple[int, int, int]:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    red, green, blue = (int(channel) for channel in border.sum(axis=0, dtype=np.int64) // len(border))
    return red, green, blue
