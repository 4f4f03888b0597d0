"""The members of the family by name, and how to build one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Discriminator, Tag

from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig, changed
from coatnet.model.guests import PREFIX, GuestConfig, guest, is_guest_name

if TYPE_CHECKING:
    from torch import nn


def _kind(value: Any) -> str:
    """Only a guest's config has the key `guest`."""
    is_guest = "guest" in value if isinstance(value, dict) else isinstance(value, GuestConfig)
    return "<guest>" if is_guest else "<coatnet>"


ModelConfig: TypeAlias = Annotated[
    Annotated[CoAtNetConfig, Tag("<coatnet>")] | Annotated[GuestConfig, Tag("<guest>")], Discriminator(_kind)
]
"""The config of any network: one of ours, or a guest."""


def _member(
    depths: tuple[int, ...], widths: tuple[int, ...], layout: str = "CCTT", head_size: int = 32
) -> CoAtNetConfig:
    return CoAtNetConfig.from_layout(layout, depths, widths, head_size=head_size)


# Tables 3, 11 and 12. CoAtNet-6's last stage is 3072 wide: Table 12 prints 2048, which gives 1.35 billion parameters
# where the paper says 1.47, and breaks its rule that the width doubles.
PAPER = {
    "coatnet_0": _member((2, 2, 3, 5, 2), (64, 96, 192, 384, 768)),
    "coatnet_1": _member((2, 2, 6, 14, 2), (64, 96, 192, 384, 768)),
    "coatnet_2": _member((2, 2, 6, 14, 2), (128, 128, 256, 512, 1024)),
    "coatnet_3": _member((2, 2, 6, 14, 2), (192, 192, 384, 768, 1536)),
    "coatnet_4": _member((2, 2, 12, 28, 2), (192, 192, 384, 768, 1536)),
    "coatnet_5": _member((2, 2, 12, 28, 2), (192, 256, 512, 1280, 2048), head_size=64),
    "coatnet_6": _member((2, 2, 4, 8, 42, 2), (192, 192, 384, 768, 1536, 3072), "C-C-CT-T", head_size=128),
    "coatnet_7": _member((2, 2, 4, 8, 42, 2), (192, 256, 512, 1024, 2048, 3072), "C-C-CT-T", head_size=128),
}


def _small_members(name: str, depths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, CoAtNetConfig]:
    """One size for 32, 64 and 128 px images.

    Five halvings would leave one token of 32 px; so halvings are left out where the last stage would fall below 4x4
    tokens: those of the stem and of S4 at 32 px, of S4 at 64 px, none at 128 px. The stem rather than S1 at 32 px:
    every pixel counts there, and its two convolutions cost less than a block of MBConv.
    """
    strides = {32: (1, 2, 2, 2, 1), 64: (2, 2, 2, 2, 1), 128: (2, 2, 2, 2, 2)}
    return {
        f"coatnet_{name}_{image_size}": CoAtNetConfig.from_layout(
            "CCTT",
            depths,
            widths,
            strides=strides[image_size],
            image_size=image_size,
            # On CPUs, where small members are trained, the tanh form of GELU takes 2.5 times as long as this one.
            gelu="erf",
            # Few steps: running statistics must follow faster than the lineage's 0.01 does (torch's default).
            batch_norm_momentum=0.1,
            initialisation="fan",
        )
        for image_size in strides
    }


# Ours, not the paper's: for small images and small machines.
SMALL = {
    **_small_members("mini", (2, 1, 3, 3, 1), (32, 64, 128, 256, 256)),
    **_small_members("small", (2, 2, 4, 5, 2), (48, 96, 192, 384, 512)),
}

FAMILY: dict[str, CoAtNetConfig] = {**PAPER, **SMALL}
"""Every member by name."""


def member(name: str) -> CoAtNetConfig | GuestConfig:
    """The config of a member, or of a guest: "timm/NAME", or "vit_pytorch/deepvit".

    Raises:
        ConfigError: no member has this name; the message lists the nearest.
    """
    if is_guest_name(name):
        return guest(name)
    if name not in FAMILY:
        near = difflib.get_close_matches(name, FAMILY, n=3, cutoff=0.7)  # resnet is as like coatnet_7 as 0.53
        guess = f"; did you mean {', '.join(near)}?" if near else " in the family"
        raise ConfigError(
            f"there is no model {name!r}{guess}",
            "coatnet models lists the family; other networks are called timm/NAME, as timm/resnet50, or "
            "vit_pytorch/deepvit",
        )
    return FAMILY[name]


# timm's name of a field, and ours.
_SYNONYMS = {"in_chans": "input_channels", "img_size": "image_size", "drop_path_rate": "stochastic_depth"}
_THEIRS = {ours: theirs for theirs, ours in _SYNONYMS.items()}
# What timm's create_model takes and ours does not: where it is here.
_ELSEWHERE = {
    "drop_rate": "there is no dropout before the classes; stochastic_depth drops branches of blocks",
    "features_only": "the network's feature_maps(images) gives the map of each stage",
    "out_indices": "the network's forward_intermediates(images, indices) gives some of the maps",
    "global_pool": "reset_classifier(0, global_pool='') of the network takes its pool off",
    "checkpoint_path": "coatnet.Classifier.load reads a trained classifier",
}


def _our_names(changes: Mapping[str, object], config: type[CoAtNetConfig | GuestConfig]) -> dict[str, object]:
    """Changes by the names of the config's fields, some of which may have timm's.

    Raises:
        ConfigError: a name that neither has, or a field given by both names.
    """
    ours: dict[str, object] = {}
    for given, value in changes.items():
        name = _SYNONYMS.get(given, given)
        if name not in config.model_fields:
            near = difflib.get_close_matches(given, [*config.model_fields, *_SYNONYMS], n=1, cutoff=0.7)
            instead = f"did you mean {near[0]}?" if near else f"its options are the fields of {config.__name__}"
            raise ConfigError(f"create_model has no option {given!r}; {_ELSEWHERE.get(given, instead)}")
        if name in ours:
            raise ConfigError(f"{name} is given twice, by our name and by timm's, {_THEIRS[name]}", "leave one out")
        ours[name] = value
    return ours


def architecture(config: ModelConfig) -> object:
    """What tells one network from another, whatever its classes and image size."""
    return config.guest if isinstance(config, GuestConfig) else config.stages


def create_model(
    model: str | CoAtNetConfig | GuestConfig, pretrained: bool | str | Path = False, **changes: object
) -> nn.Module:
    """A network: an ordinary torch module whose forward takes `(B, 3, H, W)` and returns logits.

    Args:
        model: the name of a member; of a guest, "timm/NAME", "timm/NAME.TAG" or "vit_pytorch/deepvit"; or a config.
        pretrained: for a guest: True loads the weights of the tag (timm's first one if none is named) from the cache
            of the Hugging Face hub, else from the hub; a path loads a file or folder. Otherwise weights are fresh.
        changes: fields of the config to set otherwise, as `num_classes=10`; also by timm's names `in_chans`, `img_size`
            and `drop_path_rate`.

    Raises:
        ConfigError: an unknown name, changes that do not validate, or no weights are published for it.
        MissingPartError: the weights are not here, and the hub does not answer; or the guest's library is not here.
        ModelFileError: the weights are damaged or of another network.
    """
    if pretrained is not False:
        from coatnet.model.published import create_published

        if not isinstance(model, str) or not model.startswith(PREFIX):
            shown = repr(model) if isinstance(model, str) else "a config"
            raise ConfigError(
                f"no weights are published for {shown}", "coatnet models --published lists CoAtNets that have weights"
            )
        place = None if pretrained is True else Path(pretrained)
        return create_published(model, place, **_our_names(changes, GuestConfig))
    config = member(model) if isinstance(model, str) else model
    config = changed(config, _our_names(changes, type(config)))
    if isinstance(config, GuestConfig):
        from coatnet.model.guests import create_guest

        return create_guest(config)
    from coatnet.model.coatnet import CoAtNet

    return CoAtNet(config)
