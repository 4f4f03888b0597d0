"""The one image of a multipart form, as `curl -F image=@rose.jpg` and HTML forms send it. Nothing touches the disk."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from coatnet.serving.problems import Problem, ProblemError

MOST_PARTS = 16
"""A form of ours has one part; each further one costs time to parse."""


def image_of_form(content_type: str, body: bytes) -> bytes:
    """The bytes of the form's only part.

    Args:
        content_type: the header, with the boundary.
        body: the whole body.

    Raises:
        ProblemError: this is no form, or it has another number of parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    parts: list[bytearray] = []

    def begin() -> None:
        parts.append(bytearray())
        if len(parts) > MOST_PARTS:
            raise FormParserError("too many parts")

    def add(data: bytes, start: int, end: int) -> None:
        parts[-1].extend(data[start:end])

    ended: list[bool] = []
    try:
        parser = MultipartParser(
            boundary, {"on_part_begin": begin, "on_part_data": add, "on_end": lambda: ended.append(True)}
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise ProblemError(Problem(400, "malformed_form", "The body is no multipart/form-data.")) from None
    if not ended or len(parts) != 1:
        got = f"{len(parts)} parts" if ended else "a form that ends early"
        raise ProblemError(Problem(400, "malformed_form", f"Expected a form with one part, an image, got {got}."))
    return bytes(parts[0])
