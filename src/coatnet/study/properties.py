"""The three properties of the paper's Table 1, measured: translation equivariance, input-adaptive weighting, global
receptive field. On any network, trained or not; in double precision on the CPU."""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coatnet.errors import ConfigError
from coatnet.explanation.receptive_field import effective_receptive_field
from coatnet.frozen import Frozen
from coatnet.study.feature_maps import feature_map
from coatnet.study.torus import on_a_torus

HELD = 0.9
"""Share of the gradient that counts as the effective receptive field."""
_KINDS = {
    "attention": re.compile("Attention|Attn"),
    "gate": re.compile("Squeeze|SEModule|^SE$|^Se$|EffectiveSE|Eca"),
}
"""What our and timm's parts that weight by their input are called; convolutions are known by their class."""

Shifts = dict[int, float]


class Properties(Frozen):
    """What was measured of one network."""

    name: str
    """Of the network."""
    image_size: int
    """Of the images that it was measured with, pixels."""
    stride: int
    """Pixels for one place of the last feature map."""
    equivariance_error: dict[int, float]
    """By how many pixels the image was shifted: how far the features are from the shifted features, relative to how
    much features differ from place to place; 0 for a network that moves its features along, about 1 for one whose
    features have nothing to do with where they were. On a torus; between places features are interpolated."""
    error_at_stride: float
    """Of a shift by one place: what Table 1 calls translation equivariance is 0."""
    error_at_pixels: float
    """Mean of the shifts by less than a place."""
    adaptivity: dict[str, float]
    """Input-adaptive weighting by kind of operator (convolution, gate, attention): how far the answer to the mean of
    two inputs is from the mean of the two answers, relative to half their difference; 0 for fixed weights."""
    input_adaptivity: float
    """Mean over all operators that mix places or weight channels."""
    receptive_field: float
    """Least share of the image's pixels that holds 90 % of the gradient of the feature at the centre (effective
    receptive field, arXiv 1701.04128)."""
    reached: float
    """Share of the image within the box of all pixels that have any gradient; 1 for a global receptive field."""


class Measured(NamedTuple):
    """The properties and the picture of the receptive field."""

    properties: Properties
    gradient: NDArray[np.float32]
    """`(H, W)`: gradient of the feature at the centre for each pixel, absolute, mean over images."""


def measure(model: nn.Module, name: str, image_size: int, num_images: int = 2, seed: int = 0) -> Measured:
    """Measure a network; it is not changed.

    Args:
        model: `(B, 3, H, W)` -> logits; a member or a guest.
        name: for the record.
        image_size: pixels; a multiple of the network's stride.
        num_images: generated images, at least 2.
        seed: of the images.

    Raises:
        ConfigError: an image size that does not go, or features that are not known.
    """
    network = copy.deepcopy(model).cpu().double().eval()
    generator = torch.Generator().manual_seed(seed)
    images = generated_images(num_images, image_size, generator)
    with torch.no_grad(), on_a_torus(network):
        features = feature_map(network, images)
        stride = _stride(features, image_size, name)
        errors = equivariance_errors(network, images, features, stride)
    operators = adaptivities(network, images)
    gradient = centre_gradient(network, images, generator)
    pixels = [error for shift, error in errors.items() if shift < stride] or [errors[stride]]
    everything = [value for values in operators.values() for value in values]
    return Measured(
        Properties(
            name=name,
            image_size=image_size,
            stride=stride,
            equivariance_error=errors,
            error_at_stride=errors[stride],
            error_at_pixels=float(np.mean(pixels)),
            adaptivity={kind: float(np.mean(values)) for kind, values in operators.items()},
            input_adaptivity=float(np.mean(everything)) if everything else 0.0,
            receptive_field=share_holding(gradient, HELD),
            reached=_box_share(gradient),
        ),
        gradient,
    )


def generated_images(num_images: int, image_size: int, generator: torch.Generator) -> Tensor:
    """Noise with the spectrum of photographs, amplitude 1/frequency (Field 1987), that goes on at the borders.

    Returns: `(num_images, 3, image_size, image_size)` float64 with mean 0 and standard deviation 1.
    """
    white = torch.randn(num_images, 3, image_size, image_size, generator=generator, dtype=torch.float64)
    rows = torch.fft.fftfreq(image_size, dtype=torch.float64)[:, None] * image_size
    columns = torch.fft.rfftfreq(image_size, dtype=torch.float64) * image_size
    amplitude = 1 / (rows**2 + columns**2).sqrt().clamp(min=1)
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(image_size, image_size))
    return (noise - noise.mean((1, 2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)


def equivariance_errors(model: nn.Module, images: Tensor, features: Tensor, stride: int) -> Shifts:
    """By pixels of shift; see `Properties.equivariance_error`.

    Args:
        model: whose maps are closed to a torus.
        images: `(B, 3, H, W)`.
        features: of these.
        stride: pixels for one place of the features.
    """
    variation = (features - features.mean((2, 3), keepdim=True)).norm()
    errors = {}
    for shift in sorted({1, stride // 4, stride // 2, 3 * stride // 4, stride} - {0}):
        whole, part = divmod(shift, stride)
        along = []
        for axis in (2, 3):
            expected = (1 - part / stride) * features.roll(whole, axis)
            expected = expected + part / stride * features.roll(whole + 1, axis)
            along.append((feature_map(model, images.roll(shift, axis)) - expected).norm() / variation)
        errors[shift] = float(sum(along) / 2)
    return errors


def adaptivities(model: nn.Module, images: Tensor) -> dict[str, list[float]]:
    """For each kind of operator its members' values; see `Properties.adaptivity`."""
    found: dict[str, list[float]] = {}
    handles = []
    for kind, operator in _operators(model):

        def compare(
            module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor, kind: str = kind
        ) -> None:
            first, *others = inputs
            middle = module.forward((first + first.roll(1, 0)) / 2, *others, **options)
            difference = (output - output.roll(1, 0)).norm() / 2
            excess = (middle - (output + output.roll(1, 0)) / 2).norm()
            found.setdefault(kind, []).append(float(excess / difference) if difference else 0.0)

        handles.append(operator.register_forward_hook(compare, with_kwargs=True))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _operators(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The innermost parts that are called attention or gate, and the convolutions over several places outside them."""
    weighting = {
        name: kind
        for name, module in model.named_modules()
        for kind, pattern in _KINDS.items()
        if pattern.search(type(module).__name__)
    }
    innermost = {
        name: kind for name, kind in weighting.items() if not any(one.startswith(f"{name}.") for one in weighting)
    }
    operators = [(kind, model.get_submodule(name)) for name, kind in innermost.items()]
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{one}.") for one in innermost)
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and not inside:
            operators.append(("convolution", module))
    return operators


def centre_gradient(model: nn.Module, images: Tensor, generator: torch.Generator) -> NDArray[np.float32]:
    """Gradient of the feature at the centre, `(H, W)`; channels are added with random signs, since the plain sum of
    what a layer norm gives is constant."""

    def signed(images: Tensor) -> Tensor:
        features_BHWC = feature_map(model, images).permute(0, 2, 3, 1)
        return features_BHWC * (torch.randint(0, 2, features_BHWC.shape[3:], generator=generator).double() * 2 - 1)

    return effective_receptive_field(signed, images)


def share_holding(gradient: NDArray[np.float32], held: float) -> float:
    """Least share of the pixels that holds a share of the gradient."""
    falling = np.sort(gradient.ravel())[::-1]
    return float((np.searchsorted(np.cumsum(falling), held * falling.sum()) + 1) / falling.size)


def _box_share(gradient: NDArray[np.float32]) -> float:
    rows, columns = np.nonzero(gradient)
    return float((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / gradient.size) if len(rows) else 0.0


def _stride(features: Tensor, image_size: int, name: str) -> int:
    height, width = features.shape[2:]
    if height != width or image_size % height or height < 2:
        raise ConfigError(
            f"{name} makes {height} x {width} places of {image_size} x {image_size} px: no shift moves them by one",
            "take an image size that is a multiple of its stride, and at least twice as large",
        )
    return image_size // height
