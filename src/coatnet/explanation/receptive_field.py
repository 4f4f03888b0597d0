"""The effective receptive field: which pixels a place of a feature map really depends on (Luo et al. 2016).

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coatnet.explanation.record import record, stage_names
from coatnet.model.coatnet import CoAtNet


def effective_receptive_field(
    features: Callable[[Tensor], Tensor], images_BCHW: Tensor, place: tuple[float, float] = (0.5, 0.5)
) -> NDArray[np.float32]:
    """How much each pixel moves one place of a feature map: the size of the gradient of the sum of its channels.

    Args:
        features: images -> `(B, h, w, C)`, any network up to any layer.
        images_BCHW: normalised images, over which is averaged.
        place: row and column in the map as fractions, 0 up to but not including 1; the middle if not given.

    Returns:
        `(H, W)`, absolute gradient summed over the colours, mean over the images.
    """
    (found,) = _fields(lambda images: [features(images)], images_BCHW, place)
    return found


def stage_receptive_fields(
    model: CoAtNet, images_BCHW: Tensor, place: tuple[float, float] = (0.5, 0.5)
) -> dict[str, NDArray[np.float32]]:
    """`effective_receptive_field` of each stage of a member, by the stage's name."""

    def features(images: Tensor) -> list[Tensor]:
        return list(record(model, images).maps.values())

    return dict(zip(stage_names(model.network_config), _fields(features, images_BCHW, place), strict=True))


def _fields(
    features: Callable[[Tensor], Sequence[Tensor]], images_BCHW: Tensor, place: tuple[float, float]
) -> list[NDArray[np.float32]]:
    with torch.enable_grad():
        images_BCHW = images_BCHW.detach().requires_grad_()
        fields = []
        for map_BHWC in features(images_BCHW):
            row, column = (int(share * side) for share, side in zip(place, map_BHWC.shape[1:3], strict=True))
            answer = map_BHWC[:, row, column].sum()
            (gradient_BCHW,) = torch.autograd.grad(answer, images_BCHW, retain_graph=True)
            fields.append(gradient_BCHW.abs().sum(1).mean(0).float().cpu().numpy())
    return fields
