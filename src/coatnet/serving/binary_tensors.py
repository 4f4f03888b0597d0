"""Tensors as bytes after the JSON instead of in it, as Triton's clients send and ask for by default.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence

import numpy as np

from coatnet.serving.problems import Problem, ProblemError

JSON_LENGTH = "inference-header-content-length"
"""Header with the bytes of the JSON, where tensors follow it."""
_LENGTH = struct.Struct("<I")


def split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body, and what follows it.

    Args:
        body: all of it.
        json_length: what the header says, None if it is not there.

    Raises:
        ProblemError: the body is shorter, or this is no length.
    """
    if json_length is None:
        return body, b""
    if not (json_length.isascii() and json_length.isdigit()) or not 0 < int(json_length[:20]) <= len(body):
        detail = f"Inference-Header-Content-Length is {json_length:.40}, and the body has {len(body)} bytes."
        raise ProblemError(Problem(400, "wrong_length", detail))
    return body[: int(json_length)], body[int(json_length) :]


def images(data: bytes, most: int) -> list[bytes]:
    """The files in a tensor of BYTES: each a length, 32 bits with the low byte first, and so many bytes. They may be
    base64, as they are in JSON: no image file begins as base64 does.

    Args:
        data: the tensor.
        most: images that may be in it.

    Raises:
        ProblemError: it ends early, or holds more.
    """
    found: list[bytes] = []
    position = 0
    while position < len(data):
        if len(found) == most:
            raise ProblemError(
                Problem(413, "too_many_images", f"There are more images than {most}, all that may wait.")
            )
        start = position + _LENGTH.size
        length = _LENGTH.unpack_from(data, position)[0] if start <= len(data) else len(data)
        position = start + length
        if position > len(data):
            raise ProblemError(Problem(400, "wrong_length", "The binary tensor ends within an image."))
        found.append(_file(data[start:position]))
    return found


def of_floats(values: Sequence[float]) -> bytes:
    """A tensor of FP32."""
    return np.asarray(values, "<f4").tobytes()


def of_texts(values: Sequence[str]) -> bytes:
    """A tensor of BYTES."""
    encoded = [value.encode() for value in values]
    return b"".join(part for each in encoded for part in (_LENGTH.pack(len(each)), each))


def _file(element: bytes) -> bytes:
    try:
        return base64.b64decode(element, validate=True)
    except binascii.Error:
        return element
