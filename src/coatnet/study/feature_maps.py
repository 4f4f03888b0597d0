"""The last feature map of any network: ours, timm's, or a transformer's tokens laid out as a map."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet


def feature_map(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """What the network makes of images before it pools over places.

    Args:
        model: a member or a guest.
        images_BCHW: `(B, 3, H, W)`, normalised.

    Returns:
        `(B, channels, rows, columns)`.

    Raises:
        ConfigError: a guest that keeps no map.
    """
    if isinstance(model, CoAtNet):
        return model.feature_maps(images_BCHW)[-1]
    guest: Any = model
    name = type(model).__name__
    if isinstance(getattr(model, "transformer", None), nn.Module):  # vit-pytorch
        features = _given_by(guest.transformer, model, images_BCHW)
    elif callable(getattr(model, "forward_features", None)):  # timm
        features = guest.forward_features(images_BCHW)
    else:
        raise ConfigError(f"the features of a {name} are not known", "take a network of timm, or one of ours")
    if features.ndim == 3:
        return _laid_out(features, name)
    channels_last = features.shape[1] == features.shape[2] != features.shape[3]
    return features.permute(0, 3, 1, 2) if channels_last else features


def _laid_out(tokens_BNC: Tensor, name: str) -> Tensor:
    """Tokens of a square map; class tokens before them are left out."""
    num_tokens = tokens_BNC.shape[1]
    side = math.isqrt(num_tokens)
    if num_tokens - side**2 > 2 or side == 1:  # a class token, and DeiT's distillation token
        raise ConfigError(f"the {num_tokens} tokens of a {name} are no square map", "take another image size")
    return tokens_BNC[:, num_tokens - side**2 :].transpose(1, 2).reshape(len(tokens_BNC), -1, side, side)


def _given_by(part: nn.Module, model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """What a part of the network gives."""
    given: list[Tensor] = []
    handle = part.register_forward_hook(lambda _, inputs, output: given.append(output))
    try:
        model(images_BCHW)
    finally:
        handle.remove()
    return given[0]
