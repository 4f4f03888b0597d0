"""BMP: what its header says of run lengths, which Pillow expands in Python."""

from coatnet.data.containers.container import Container, ContainerError

MAX_PIXELS = 50_000_000
MAX_RUN_LENGTH_PIXELS = 4_000_000
MAX_RUN_LENGTH_BYTES = 2_000_000
_RUN_LENGTHS = (1, 2)  # BI_RLE8, BI_RLE4


def read_bmp(data: bytes) -> Container:
    """Limit files with run lengths.

    Raises:
        ContainerError: a file with run lengths is too large.
    """
    header_size = int.from_bytes(data[14:18], "little")
    if header_size < 40 or int.from_bytes(data[30:34], "little") not in _RUN_LENGTHS:
        return Container(data, MAX_PIXELS)
    if len(data) > MAX_RUN_LENGTH_BYTES:
        detail = f"BMP with run lengths of {len(data)} bytes is above {MAX_RUN_LENGTH_BYTES}"
        raise ContainerError("too_large_bytes", detail)
    return Container(data, MAX_RUN_LENGTH_PIXELS)
