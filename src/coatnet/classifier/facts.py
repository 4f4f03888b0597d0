"""What a network's own file tells programs that read nothing else: class names, preprocessing, licence."""

from __future__ import annotations

import json
from collections.abc import Sequence

from coatnet.data.preprocess import Preprocess
from coatnet.version import __version__


def facts_of(
    preprocess: Preprocess, class_names: Sequence[str], source: str, licence: str, *, pixels: bool = False
) -> dict[str, str]:
    """Names and values for ONNX's metadata and OpenVINO's information.

    Args:
        preprocess: how an image becomes the input, for the size of this network.
        class_names: in the order of the output.
        source: sha256 of the weights.
        licence: of the weights; "" where it is not known, and then not told.
        pixels: the graph takes uint8 pixels, and normalises them itself.

    Returns:
        Texts; lists and numbers are JSON.
    """
    facts = {
        "class_names": json.dumps(list(class_names), ensure_ascii=False),
        "image_size": json.dumps(list(preprocess.image_size)),
        "resize": preprocess.resize,
        "crop_fraction": json.dumps(preprocess.crop_fraction),
        "interpolation": preprocess.interpolation,
        "resizing": resizing_words(preprocess),
        "coatnet_version": __version__,
        "weights_sha256": source,
        "license": licence,
    }
    if pixels:
        facts["input"] = "(batch, height, width, 3) uint8 RGB, resized; it is normalised inside"
        facts["output"] = "(batch, classes) float32 probabilities"
    else:
        facts["input"] = "(batch, 3, height, width) float32 RGB, resized: (pixel / 255 - mean) / std"
        facts["output"] = "(batch, classes) float32 logits; their softmax is the probabilities"
        facts |= {"mean": json.dumps(list(preprocess.mean)), "std": json.dumps(list(preprocess.std))}
    return {name: fact for name, fact in facts.items() if fact}


def resizing_words(preprocess: Preprocess) -> str:
    """How an image is brought to the size of the input, as someone would program it."""
    height, width = preprocess.image_size
    part, how = preprocess.crop_fraction, f"with Pillow's {preprocess.interpolation} filter"
    if preprocess.resize == "stretch":
        return f"Take the central {part:g} of both sides and resize it to {height} x {width} {how}."
    if preprocess.resize == "pad":
        return f"Resize until the image fits into {height} x {width} {how}; centre it on the mean colour."
    return (
        f"Take the largest central box whose sides are as {height} to {width}; keep the central {part:g} of its sides; "
        f"resize that to {height} x {width} {how}."
    )
