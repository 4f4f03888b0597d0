"""What every reader of a container returns: a file that costs no more than its pixels, and what it would cost.

The decoders that follow are given only the blocks that pixels need. Comments, profiles, previews, further frames and
metadata are left out here, so no decoder inflates, copies or lists them.
"""

from typing import NamedTuple


class Container(NamedTuple):
    """A file ready to be decoded."""

    data: bytes
    """The file without the blocks that no pixel needs."""
    max_pixels: int
    """Width times height up to which this kind of file stays below 500 MB and 2 s; see benchmarks/limits.md."""
    orientation: int = 1
    """EXIF orientation, 1 to 8, that the decoder does not apply itself."""
    white: int | None = None
    """The grey level that the file calls white, where that is another than its bits can hold; e.g. 4095."""
    unsigned: bool = False
    """Whether 32-bit levels are to be read without a sign, which Pillow does not."""
    ends_early: bool = False
    """A JPEG without its end marker."""


class ContainerError(ValueError):
    """A file that is refused by its structure.

    Args:
        code: one of `coatnet.data.images.CODES`.
        detail: one line.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
