"""Drawn images to train on."""

import numpy as np
from PIL import Image


def draw_classes(folder, names=("circle", "cross", "square"), count=6, size=40):
    """Class folders of drawn PNG images that differ in shape and, within a class, in colour."""
    rows, columns = np.mgrid[:size, :size] - size // 2
    shapes = [rows**2 + columns**2 < (size // 3) ** 2, abs(rows) == abs(columns), abs(rows) + abs(columns) > size // 2]
    for position, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = np.full((size, size, 3), 40 * index % 250, np.uint8)
            image[shapes[position % 3]] = 250 - 20 * index % 200, 90, 20 * index
            Image.fromarray(image).save(folder / name / f"{index}.png")
    return folder
