"""explain(classifier, image): what the classifier saw, as heat maps and attention parts. Imports no torch itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from coatnet.classifier import Classifier
from coatnet.classifier.inputs import AnyImage, as_array
from coatnet.errors import ConfigError, MissingPartError, ModelFileError
from coatnet.runtime.engines import TorchEngine

if TYPE_CHECKING:
    from coatnet.explanation.attention import BlockAttention
    from coatnet.explanation.methods import Explainer

Method = Literal["grad_cam", "integrated_gradients", "rollout", "receptive_field"]
METHODS: tuple[Method, ...] = get_args(Method)
TITLES: Mapping[str, str] = {
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "rollout": "attention rollout",
    "receptive_field": "receptive field",
    "attention": "attention",
}


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One picture of what counted."""

    method: Method | Literal["attention"]
    layer: str
    """Where it was taken: a stage such as S2, a block such as S3.0, `features` of a guest, `blocks`, or `input`."""
    values: NDArray[np.float32]
    """`(h, w)` at the resolution it was computed at, which covers the whole input. From 0 up; integrated gradients are
    below 0 where a pixel speaks against the class."""

    @property
    def title(self) -> str:
        """What it is, for people."""
        return TITLES[self.method] + ("" if self.layer in ("input", "blocks") else f", {self.layer}")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What `explain` found for one image."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB: the image as the network saw it, resized and cropped; heat maps lie over this one."""
    label: str
    """The class that is explained: the most probable one if not asked for another."""
    probability: float
    """Its softmax probability."""
    at: tuple[int, int]
    """Row and column of the pixel of `image` whose receptive fields and attention are asked for."""
    heat_maps: tuple[HeatMap, ...]
    attention: tuple[BlockAttention, ...]
    """One for each transformer block, in order."""
    left_out: Mapping[str, str]
    """Methods, and "attention", that do not apply to this network or lack something, each with the reason."""

    def heat_map(self, method: Method) -> HeatMap:
        """The deepest map of a method.

        Raises:
            KeyError: it was not asked for or does not apply.
        """
        return {one.method: one for one in self.heat_maps}[method]

    def token_of(self, block: BlockAttention, at: tuple[int, int] | None = None) -> tuple[int, int]:
        """The token of a block that a pixel of `image` belongs to; that of `at` if no other is given."""
        row, column = at or self.at
        return block.token_at(row / self.image.shape[0], column / self.image.shape[1])

    def attention_map(self, block: BlockAttention, at: tuple[int, int] | None = None) -> HeatMap:
        """What the token of a pixel attends to in a block, mean over the heads, as a map that can be drawn."""
        return HeatMap("attention", block.name, block.parts(self.token_of(block, at)).whole.mean(0))

    def as_dict(self) -> dict[str, Any]:
        """All but the image, ready for JSON; arrays are nested lists, numbers have five significant digits."""
        blocks = []
        for block in self.attention:
            parts = block.parts(self.token_of(block))
            arrays = {name: _rounded(getattr(parts, name)) for name in ("static", "adaptive", "whole")}
            shares = _rounded(block.static_shares())
            blocks.append({"block": block.name, "query": list(parts.token), "static_share": shares, **arrays})
        return {
            "label": self.label,
            "probability": self.probability,
            "image_size": list(self.image.shape[:2]),
            "at": list(self.at),
            "heat_maps": [
                {"method": one.method, "layer": one.layer, "values": _rounded(one.values)} for one in self.heat_maps
            ],
            "attention": blocks,
            "left_out": dict(self.left_out),
        }


def explain(
    classifier: Classifier,
    image: AnyImage,
    *,
    methods: Sequence[Method] | None = None,
    label: str | None = None,
    at: tuple[int, int] | None = None,
) -> Explanation:
    """What the classifier looked at. All in float32 on the classifier's device.

    `methods=("grad_cam",)` takes one forward and one backward pass, `methods=()` one forward pass, which is enough for
    the attention parts; integrated gradients take 64 of each.

    Args:
        classifier: with a torch network, of ours or a guest.
        image: what `predict` takes.
        methods: which heat maps; all that apply if not given.
        label: the class to explain; the most probable one if not given.
        at: row and column of a pixel of the image as the network sees it; its middle if not given.

    Returns:
        An Explanation. Of guests only timm's own CoAtNets have attention parts; what does not apply is told in
        `left_out`.

    Raises:
        ModelFileError: the classifier is an exported artefact, which has no gradients.
        ConfigError: an unknown class or method, a method that does not apply to this network, or `at` outside.
        MissingPartError: integrated gradients were asked for, and captum is not installed.
        ImageError: the image cannot be read.
        QualityError: the logits are not finite.
    """
    if not isinstance(classifier.engine, TorchEngine):
        raise ModelFileError(
            "an exported network has no gradients, so it cannot be explained",
            "explain the classifier folder that it was exported from",
        )
    unknown = [method for method in methods or () if method not in METHODS]
    if unknown:
        raise ConfigError(f"there is no method {unknown[0]!r}", f"the methods are {', '.join(METHODS)}")
    if label is not None and label not in classifier.class_names:
        raise ConfigError(f"{label!r} is none of the classes", f"they are {', '.join(classifier.class_names[:20])}")
    pixels = classifier.preprocess.resized(as_array(image))
    place = _checked_place(at, pixels.shape[:2])
    from coatnet.explanation.methods import open_explainer

    explainer = open_explainer(classifier.engine, classifier.preprocess.normalized(pixels[None]))
    target = int(explainer.logits.argmax()) if label is None else classifier.class_names.index(label)
    heat_maps, left_out = _heat_maps(explainer, methods, target, _share(place, pixels))
    attention = explainer.attention()
    if not attention:
        left_out["attention"] = explainer.without_attention
    return Explanation(
        image=pixels,
        label=classifier.class_names[target],
        probability=float(explainer.probabilities[target]),
        at=place,
        heat_maps=tuple(heat_maps),
        attention=attention,
        left_out=left_out,
    )


def _heat_maps(
    explainer: Explainer, methods: Sequence[Method] | None, target: int, place: tuple[float, float]
) -> tuple[list[HeatMap], dict[str, str]]:
    """The maps, and why some are left out; what was asked for by name is never left out."""
    found: list[HeatMap] = []
    left_out: dict[str, str] = {}
    for method in METHODS if methods is None else methods:
        try:
            found += explainer.heat_maps(method, target, place)
        except (ConfigError, MissingPartError) as error:
            if methods is not None:
                raise
            left_out[method] = "; ".join(filter(None, (error.message, error.hint)))
    return found, left_out


def _checked_place(at: tuple[int, int] | None, size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    row, column = (height // 2, width // 2) if at is None else at
    if not (0 <= row < height and 0 <= column < width):
        raise ConfigError(
            f"at {row},{column} is outside of the image, which the network sees as {height} x {width} pixels",
            f"give a row from 0 to {height - 1} and a column from 0 to {width - 1}",
        )
    return row, column


def _share(place: tuple[int, int], pixels: NDArray[np.uint8]) -> tuple[float, float]:
    return place[0] / pixels.shape[0], place[1] / pixels.shape[1]


def _rounded(values: NDArray[np.float32]) -> Any:
    """Nested lists of numbers with five significant digits, which is what a picture needs and a reader can bear."""
    digits = np.array([float(f"{value:.5g}") for value in values.ravel()])
    return digits.reshape(values.shape).tolist()
