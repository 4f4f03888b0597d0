"""An explanation as the page shows it: layers of colour over the image that the network saw."""

from __future__ import annotations

import io
import sys
import traceback

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.classifier import Classifier
from coatnet.errors import CoatnetError
from coatnet.explanation.explain import Explanation, explain
from coatnet.serving.messages import Explain, Look
from coatnet.serving.problems import FAILED, Problem
from coatnet.terminal import visible


def look(classifier: Classifier, image: NDArray[np.uint8], wanted: Explain) -> Look | Problem:
    """What a classifier looked at.

    Args:
        classifier: with a torch network.
        image: (H, W, 3), resized for it already.
        wanted: how to look.
    """
    height, width = image.shape[:2]
    place = int(wanted.place[0] * height), int(wanted.place[1] * width)
    methods = () if wanted.method == "attention" else (wanted.method,)
    try:
        return _drawn(explain(classifier, image, methods=methods, at=place), wanted)
    except CoatnetError as error:
        return Problem(422, "does_not_apply", "; ".join(filter(None, (error.message, error.hint))))
    except Exception:
        sys.stderr.write(visible(traceback.format_exc()))
        return FAILED


def _drawn(found: Explanation, wanted: Explain) -> Look | Problem:
    from coatnet.explanation.overlay import attention_tiles, enlarged, heat_layer

    picture = enlarged(found.image)
    maps, parts = list(found.heat_maps), []
    if wanted.method == "attention":
        if not found.attention:
            return Problem(422, "does_not_apply", found.left_out["attention"])
        for block in found.attention:
            maps.append(found.attention_map(block))
            parts.append((block.name, _png(attention_tiles(block.parts(found.token_of(block))))))
    layers = tuple((one.title, _png(heat_layer(one, (picture.shape[0], picture.shape[1])))) for one in maps)
    return Look(found.label, found.probability, _png(picture), layers, tuple(parts))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
