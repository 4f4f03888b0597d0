"""ServeConfig: how a classifier is served. Imports no torch and no web framework."""

import re

from pydantic import Field, PositiveInt, field_validator

from coatnet.data.images import STRICT_FORMATS, ImageLimits
from coatnet.frozen import Frozen

MAX_PIXELS = 25_000_000
"""A 25-megapixel photograph: 75 MB as RGB, half of what a user's own files may be."""


LONGEST_TIMEOUT = 600.0
"""Seconds: no client of a web server waits longer."""


ORIGIN = re.compile(r"\*|https?://[a-z0-9.:\[\]_-]+")
"""As browsers send it: scheme, host in small letters, port if it is not the usual one, and no path (RFC 6454, 6.2)."""


class ServeConfig(Frozen):
    """Where and how to serve."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every address of this machine."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen at; 0 takes a free one, which is printed."""
    token: str = ""
    """What clients must show as `Authorization: Bearer TOKEN`; empty: nothing. Better given by COATNET_TOKEN, since
    others on this machine can read a command line."""
    name: str = Field(default="", max_length=100, pattern=r"[A-Za-z0-9_.-]*")
    """Of the model in addresses and answers; default: that of its folder."""
    origins: tuple[str, ...] = ()
    """Other web pages that may ask, by their origins, as https://shop.example; * is all. Default: the server's own
    page alone."""
    threads: PositiveInt | None = None
    """Threads that compute; default: measured at start."""
    batch_size: PositiveInt | None = None
    """Most images that are computed at once; default: measured at start."""
    queue: PositiveInt | None = None
    """Most images that wait; one more is answered 429. Default: what is computed in a second, two to eight batches."""
    timeout: float = Field(default=10, ge=0.1, le=LONGEST_TIMEOUT)
    """Seconds after which an answer is of no more use; a request may ask for less by `X-Timeout-Seconds`."""
    explain: bool = True
    """Whether `/explain` is offered. The first explanation loads the classifier a second time, in torch."""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Largest image file in bytes."""

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"got {origin!r:.60}, expected an origin without a path, as https://shop.example, or *"
                )
        return origins

    @property
    def limits(self) -> ImageLimits:
        """What an image may be."""
        return ImageLimits(max_bytes=self.max_bytes, max_pixels=MAX_PIXELS, formats=STRICT_FORMATS)
