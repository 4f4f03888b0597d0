"""How requests and answers are described in the OpenAPI document."""

from coatnet.frozen import Frozen

IMAGE_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp", "application/octet-stream")
FORM_TYPE = "multipart/form-data"
PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457. `code` tells programs what happened, `detail` people; `error` is the same text, where "
    "clients of the Open Inference Protocol look.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "error": {"type": "string"},
    },
    "required": ["type", "title", "status", "code", "detail", "error"],
    "additionalProperties": False,
}
_BINARY = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"image": _BINARY}, "required": ["image"], "additionalProperties": False}
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": "An image file as it is, or a form with one.",
        "content": {**{name: {"schema": _BINARY} for name in IMAGE_TYPES}, FORM_TYPE: {"schema": _FORM}},
    }
}


class PredictResponse(Frozen):
    """As `coatnet predict --json` tells it."""

    label: str
    """The most probable class."""
    probability: float
    """Of that class, in (0, 1]."""
    top: list[list[str | float]]
    """The most probable classes with their probabilities, best first."""


class ModelResponse(Frozen):
    """What is served, and what it takes."""

    name: str
    classes: list[str]
    image_size: list[int]
    """Height and width of the network's input in pixels."""
    max_bytes: int
    max_pixels: int
    timeout: float
    methods: list[str]
    """What `/explain` has for it; nothing if the network has no gradients."""


class Layer(Frozen):
    """A picture of an explanation."""

    title: str
    png: str
    """base64."""


class ExplainResponse(Frozen):
    """What the classifier looked at."""

    label: str
    """The most probable class, which is explained."""
    probability: float
    image: str
    """The image as the network saw it: PNG as base64."""
    layers: list[Layer]
    """To lay over that image; the deepest last."""
    parts: list[Layer]
    """For attention, of each block its static, adaptive and whole part in rows, a column for each head."""
