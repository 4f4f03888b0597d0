"""The EXIF orientation, found without parsing the rest of the block.

An EXIF block may hold thousands of tags that share the same megabytes, which a general parser copies for each tag.
"""

import re

_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_FORMATS = {1: 1, 3: 2, 4: 4}  # types of whole numbers -> their bytes
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_LONGEST_XMP = 1 << 20


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation that an EXIF block tells, else an XMP packet, else 1.

    Args:
        exif: from the byte order on; a leading "Exif" and two zeros are skipped.
        xmp: the packet.

    Returns:
        1 to 8; damaged blocks tell nothing.
    """
    told = _from_exif(exif.removeprefix(b"Exif\0\0"))
    if told is None:
        match = _XMP.search(xmp[:_LONGEST_XMP])
        told = int(match[1]) if match else 1
    return told if told in range(1, 9) else 1


def _from_exif(block: bytes) -> int | None:
    order = {b"II": "little", b"MM": "big"}.get(block[:2])
    if order is None:
        return None

    def number(start: int, size: int) -> int:
        return int.from_bytes(block[start : start + size], "little" if order == "little" else "big")

    directory = number(4, 4)
    told = None
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if entry + 12 > len(block):
            break
        if number(entry, 2) == _TAG and number(entry + 4, 4) == 1 and number(entry + 2, 2) in _FORMATS:
            told = number(entry + 8, _FORMATS[number(entry + 2, 2)])
    return told
