"""The graph from uint8 pixels to probabilities: normalisation and softmax inside, for programs without coatnet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coatnet.classifier import Classifier
from coatnet.classifier.artefact import About, Kind
from coatnet.classifier.classifier import softmax
from coatnet.classifier.fingerprint import fingerprint_image
from coatnet.errors import QualityError
from coatnet.runtime.conversion import SUFFIX, convert, inference_form
from coatnet.runtime.engines import TorchEngine
from coatnet.runtime.openvino_engine import COMPUTING

PROBABILITY_LIMIT = 1e-4
"""Largest difference of a probability, as of a logit."""
CHECKED_IMAGES = 2


class FromPixels(nn.Module):
    """Normalisation, network, softmax.

    Args:
        network: normalised images -> logits.
        mean: of each channel, on the scale 0..1.
        std: of each channel, on the scale 0..1.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.scale: Tensor
        self.shift: Tensor
        deviation = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / 255 / deviation).float()[:, None, None])
        self.register_buffer("shift", (torch.tensor(mean, dtype=torch.float64) / deviation).float()[:, None, None])

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Args: pixels_BHWC: `(B, H, W, 3)` uint8 RGB of the network's size. Returns: `(B, classes)` probabilities."""
        images_BCHW = pixels_BHWC.permute(0, 3, 1, 2).float() * self.scale - self.shift
        return torch.softmax(self.network(images_BCHW), -1)


def write_pixels(folder: Path, classifier: Classifier, kind: Kind, about: About) -> None:
    """Write `pixels-HxW` beside the network of each size, and compare its probabilities with the classifier's.

    Raises:
        QualityError: they are not the same.
    """
    assert isinstance(classifier.engine, TorchEngine)
    for height, width in about.sizes:
        path = folder / f"pixels-{height}x{width}{SUFFIX[kind]}"
        preprocess = classifier.preprocess.replace(image_size=(height, width))
        network = inference_form(classifier.engine.model, (height, width))
        facts = about.facts((height, width), pixels=True)
        convert(FromPixels(network, preprocess.mean, preprocess.std), kind, (height, width, 3), path, facts)
        image = preprocess.resized(fingerprint_image())
        pixels = np.stack([image[:, ::step] for step in (1, -1)][:CHECKED_IMAGES])
        expected = softmax(TorchEngine(classifier.engine.model, "cpu").logits(preprocess.normalized(pixels)))
        worst = float(np.abs(_run(kind, path, pixels) - expected).max())
        if not worst <= PROBABILITY_LIMIT:
            raise QualityError(f"the graph from pixels differs: probabilities by {worst:.1e}", "nothing was written")


def _run(kind: Kind, path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the runtime itself makes of the file."""
    found: NDArray[np.float32]
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": pixels})[0]
    elif kind == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", COMPUTING["float32"])
        found = compiled(pixels)[0]
    else:
        found = torch.export.load(path).module()(torch.from_numpy(pixels)).numpy()
    return found
