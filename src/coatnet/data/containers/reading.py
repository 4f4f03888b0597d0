"""The reader of each format."""

from collections.abc import Callable

from coatnet.data.containers.avif import read_avif
from coatnet.data.containers.bmp import read_bmp
from coatnet.data.containers.container import Container
from coatnet.data.containers.gif import read_gif
from coatnet.data.containers.jpeg import read_jpeg
from coatnet.data.containers.png import read_png
from coatnet.data.containers.portable_map import read_portable_map
from coatnet.data.containers.tiff import read_tiff
from coatnet.data.containers.webp import read_webp

READERS: dict[str, Callable[[bytes], Container]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
    "AVIF": read_avif,
    "PPM": read_portable_map,
}
"""By Pillow's names; a format without a reader is not opened."""
