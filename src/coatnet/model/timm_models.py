"""The family in timm's registry: importing this file registers it. `timm.create_model("coatnet_mini_64.untrained")`."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from coatnet.errors import ConfigError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.family import FAMILY, create_model
from coatnet.model.timm_interface import pretrained_cfg

TAG = "untrained"
"""timm's tag of networks without published weights, as in its own `coatnet_0_224.untrained`."""

default_cfgs = generate_default_cfgs({f"{name}.{TAG}": pretrained_cfg(config) for name, config in FAMILY.items()})
"""Read by timm's `register_model`."""


def _entry(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """The network of a name with timm's options.

    Raises:
        ConfigError: weights are asked for, and `pretrained_cfg` or its overlay do not say where they are.
    """
    source = resolve_pretrained_cfg(name, options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay"))
    if pretrained and not (source.has_weights or source.state_dict):
        raise ConfigError(
            f"no weights are published for {name!r}", "give the file of your own: pretrained_cfg_overlay={'file': PATH}"
        )
    maps = tuple(range(len(FAMILY[name].stages) + 1))
    features = {"feature_cls": "getter", "out_indices": maps}
    return build_model_with_cfg(partial(_create, name), name, pretrained, feature_cfg=features, **options)


def _create(name: str, *, global_pool: str = "avg", drop_rate: float = 0.0, **changes: Any) -> nn.Module:
    """As timm's scripts ask, which give `drop_rate=0.0` when nobody set it."""
    if drop_rate:
        changes["drop_rate"] = drop_rate
    model = create_model(name, **changes)
    assert isinstance(model, CoAtNet)
    if global_pool != "avg":
        model.reset_classifier(model.num_classes, global_pool)
    return model


def _register(name: str) -> None:
    """Add one network, unless timm has one of this name."""
    if is_model(name):
        warnings.warn(f"timm has its own {name}; coatnet.create_model gives coatnet's", stacklevel=2)
        return

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return _entry(name, pretrained, **options)

    entry.__name__ = entry.__qualname__ = name
    register_model(entry)


for _name in FAMILY:
    _register(_name)
