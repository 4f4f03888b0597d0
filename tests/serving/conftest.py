"""Real servers on loopback."""

import io

import numpy as np
import pytest
from PIL import Image

from serving.servers import Server

MAX_BYTES = 1_000_000


@pytest.fixture(scope="session")
def server(tiny_classifier):
    """One for all tests that leave it as it was."""
    flags = ("--name", "tiny", "--batch-size", 8, "--queue", 64, "--max-bytes", MAX_BYTES)
    with Server(tiny_classifier, *flags) as running:
        yield running


@pytest.fixture(scope="session")
def pictures():
    """Files of 24 pictures that look different to any network, in the three formats."""
    return [picture(seed, ("PNG", "JPEG", "WEBP")[seed % 3]) for seed in range(24)]


def picture(seed, kind="PNG", size=(48, 40)):
    """A file with some coloured noise."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()
