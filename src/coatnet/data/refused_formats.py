"""What a file is that is not opened, in words, so that its owner knows what to convert."""

import re
from collections.abc import Sequence

_NAMES = {"WEBP": "WebP"}
_STARTS = {
    b"%PDF": "a PDF",
    b"\0\0\1\0": "an ICO icon",
    b"8BPS": "a Photoshop file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"v/1\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"P7": "a PAM image",
    b"Pf": "a PFM image",
    b"PF": "a PFM image",
}
_ARTICLES = {"AVIF": "an"}
_TEXT_SEARCHED = 1000
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


def refusal(data: bytes, file_format: str | None, taken: Sequence[str]) -> str:
    """A sentence for a file that is not opened: what it is, and what is taken.

    Args:
        data: the file, at least its start.
        file_format: what its first bytes were recognised as, if anything.
        taken: the formats that are opened.
    """
    names = [_NAMES.get(name, name) for name in taken]
    listed = f"{', '.join(names[:-1])} and {names[-1]} are taken" if len(names) > 1 else f"{names[0]} is taken"
    return f"This is {_what(data, file_format)}; {listed}"


def _what(data: bytes, file_format: str | None) -> str:
    if file_format:
        name = "HEIC image" if file_format == "HEIC" else _NAMES.get(file_format, file_format)
        return f"{_ARTICLES.get(file_format, 'a')} {name}"
    for start, name in _STARTS.items():
        if data.startswith(start):
            return name
    if data[128:132] == b"DICM":
        return "a DICOM file"
    head = data[:_TEXT_SEARCHED]
    if _SVG.search(head):
        return "an SVG drawing"
    if _HTML.match(head):
        return "a web page"
    return f"no image known here (it starts with {data[:8].hex(' ')})"
