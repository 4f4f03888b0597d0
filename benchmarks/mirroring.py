"""Measure when training mirrors images, and what that costs on arrows.

python benchmarks/mirroring.py judge [PARQUET ...]    what is decided on generated arrows and on data sets
python benchmarks/mirroring.py arrows FOLDER          write left and right arrows for `coatnet train FOLDER`
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from coatnet.training.look import opened

SIDE = 64


def arrow(right: bool, number: int, *, cluttered: bool) -> Image.Image:
    """One coloured arrow somewhere near the middle."""
    generator = np.random.default_rng(number)
    if cluttered:
        ground = generator.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    else:
        image = Image.new("RGB", (SIDE, SIDE), (30, 60, 160))
    colour = tuple(generator.integers(0, 256, 3).tolist())
    x, y = generator.integers(24, 40, 2).tolist()
    reach, way = int(generator.integers(14, 22)), 1 if right else -1
    draw = ImageDraw.Draw(image)
    draw.line((x - reach, y, x + reach, y), fill=colour, width=5)
    tip = x + way * reach
    draw.polygon([(tip, y - 9), (tip, y + 9), (tip + way * 9, y)], fill=colour)
    return image


def write_arrows(folder: Path, num: int, *, cluttered: bool) -> None:
    """Two classes whose names tell nothing."""
    for number in range(num):
        path = folder / ("b" if number % 2 else "a") / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrow(number % 2 == 1, number, cluttered=cluttered).save(path)


def main() -> None:
    if sys.argv[1:2] == ["arrows"]:
        write_arrows(Path(sys.argv[2]), 600, cluttered=True)
        return
    for data in sys.argv[2:]:
        print(data, "|", *opened(data).mirroring, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
