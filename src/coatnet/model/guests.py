"""Other people's networks by name, as "timm/resnet50" or "vit_pytorch/deepvit": their config, and how to build one.

Importing this file imports neither torch nor timm.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from coatnet.errors import CoatnetError, ConfigError, MissingPartError, install_hint
from coatnet.frozen import Frozen, explain
from coatnet.model.config import SMALLEST_IMAGE

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import Tensor, nn

PREFIX = "timm/"
"""Before the names of timm's networks."""
DEEPVIT = "vit_pytorch/deepvit"
"""The one guest that timm lacks, a contender of the paper's Table 4; built by vit-pytorch, an optional part."""
DEEPVIT_FORM = {"dim": 396, "depth": 16, "heads": 12, "dim_head": 33, "mlp_dim": 3 * 396}
"""DeepViT-S (arXiv 2103.11886): 16 blocks of 396 channels, 12 heads, feed-forward part three times as wide. Its
makers' stem of convolutions is not in vit-pytorch, which cuts patches, and re-attends in all blocks, not in the last 5.
"""
DEEPVIT_SIZE, DEEPVIT_PATCHES, DEEPVIT_TOKENS = 224, (16, 8, 4), 8
"""Its image size and its patch, pixels; smaller images get the largest patch that leaves 8 x 8 tokens."""


class GuestConfig(Frozen):
    """A network that another library builds. It names an architecture known there, never a file or an address."""

    guest: str = Field(pattern=r"^(timm/[A-Za-z0-9_]+|vit_pytorch/deepvit)$")
    """Architecture without a tag, as "timm/coatnet_0_rw_224"; or "vit_pytorch/deepvit"."""
    num_classes: PositiveInt = 1000
    """Logits per image."""
    image_size: int = Field(ge=SMALLEST_IMAGE)
    """Height and width that the network is built for, pixels."""
    input_channels: Literal[3] = 3
    """Channels per image."""
    stochastic_depth: float = Field(0.0, ge=0, lt=1)
    """timm's drop_path_rate: probability of dropping the last block's branches, in most networks growing with depth."""

    @property
    def layout(self) -> str:
        """What stands in the place of a layout: the architecture's name."""
        return self.guest


def is_guest_name(name: str) -> bool:
    """Whether this is the name of a guest, rather than of a member."""
    return name.startswith(PREFIX) or name == DEEPVIT


def guest(name: str) -> GuestConfig:
    """The config of a guest as its makers built it.

    Args:
        name: "timm/ARCHITECTURE" or "timm/ARCHITECTURE.TAG", with the classes and the image size of the tag's weights;
            or "vit_pytorch/deepvit".

    Raises:
        ConfigError: timm has no such model, or it takes no square images.
    """
    if name == DEEPVIT:
        return GuestConfig(guest=name, image_size=DEEPVIT_SIZE)
    record = registered(name)
    height, width = record.input_size[1:]
    if height != width:
        raise ConfigError(f"{name} is made for images of {height} x {width} pixels", "coatnet's images are square")
    architecture = name.removeprefix(PREFIX).partition(".")[0]
    try:
        # Weights without classes, as CLIP's: the network gets timm's default number of classes.
        return GuestConfig(guest=PREFIX + architecture, num_classes=record.num_classes or 1000, image_size=height)
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error)}") from None


def registered(name: str) -> PretrainedCfg:
    """What timm's registry says of a model and its weights.

    Args:
        name: as "timm/resnet50" or "timm/resnet50.a1_in1k"; without a tag, timm's first one.

    Raises:
        ConfigError: timm has no such model or no such weights; the message lists the nearest.
    """
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models

    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    tagged = f"{architecture}.{tag}" if tag else architecture
    if not name.startswith(PREFIX) or not is_model(architecture) or _is_ours(architecture):
        theirs = [one for one in list_models() if not _is_ours(one)]
        near = difflib.get_close_matches(architecture, theirs, n=3, cutoff=0.4) or ["resnet50"]
        listed = ", ".join(PREFIX + one for one in near)
        raise ConfigError(f"timm has no model {name!r}; did you mean {listed}?", "timm.list_models() lists them all")
    if tag and tagged not in get_arch_pretrained_cfgs(architecture):
        known = ", ".join(PREFIX + one for one in get_arch_pretrained_cfgs(architecture) if "." in one)
        raise ConfigError(f"timm has no weights {name!r}", f"it has {known or 'none for this model'}")
    record = get_pretrained_cfg(tagged)
    assert record is not None
    return record


def _is_ours(architecture: str) -> bool:
    """Whether a name in timm's registry stands for a member of our family."""
    from timm.models import model_entrypoint

    return model_entrypoint(architecture).__module__.startswith("coatnet.")


def create_guest(config: GuestConfig) -> nn.Module:
    """The network with fresh weights: the library's own module, whose state dict has its names.

    Args:
        config: the network.

    Returns:
        `(B, 3, H, W)` -> `(B, num_classes)` logits; `.network_config` is `config`. A network whose image size is
        fixed refuses other sizes.

    Raises:
        ConfigError: timm has no such model, or it cannot be built at this size or with stochastic depth.
        MissingPartError: the library is not installed.
    """
    if config.image_size != _native_size(config):
        check_guest(config)
    return finish_guest(build(config), config)


def build(config: GuestConfig, **options: Any) -> nn.Module:
    """The library's module for a config.

    Args:
        config: the network.
        options: what else to give timm's create_model.

    Raises:
        ConfigError: it cannot be built so.
        MissingPartError: the library is not installed.
    """
    if config.guest == DEEPVIT:
        return _build_deepvit(config)
    import timm
    from timm.models import resolve_model_input_args

    name = config.guest.removeprefix(PREFIX)
    sized = resolve_model_input_args(name, {"img_size": config.image_size})
    choices: dict[str, Any] = {"num_classes": config.num_classes}
    if "img_size" in sized:
        choices["img_size"] = sized["img_size"]
    if config.stochastic_depth:
        choices["drop_path_rate"] = config.stochastic_depth
    try:
        module: nn.Module = timm.create_model(name, **{**choices, **options})
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise _no_stochastic_depth(config) from None
    return module


def _build_deepvit(config: GuestConfig) -> nn.Module:
    try:
        from vit_pytorch.deepvit import DeepViT
    except ImportError:
        raise MissingPartError(
            f"{config.guest} needs vit-pytorch, which is not installed", install_hint("study")
        ) from None
    if config.stochastic_depth:
        raise _no_stochastic_depth(config)
    patch = next(patch for patch in DEEPVIT_PATCHES if config.image_size >= DEEPVIT_TOKENS * patch)
    module: nn.Module = DeepViT(
        image_size=config.image_size, patch_size=patch, num_classes=config.num_classes, **DEEPVIT_FORM
    )
    return module


def _no_stochastic_depth(config: GuestConfig) -> ConfigError:
    return ConfigError(f"{config.guest} has no stochastic depth", "leave --stochastic-depth out")


def _native_size(config: GuestConfig) -> int:
    """The image size that the architecture was made for."""
    return DEEPVIT_SIZE if config.guest == DEEPVIT else registered(config.guest).input_size[-1]


def classifier_layers(config: GuestConfig) -> tuple[str, ...]:
    """Names of the layers whose weight and bias have a row for each class."""
    if config.guest == DEEPVIT:
        return ("mlp_head.1",)
    layers = registered(config.guest).classifier
    return (layers,) if isinstance(layers, str) else tuple(layers or ())


def finish_guest(module: nn.Module, config: GuestConfig) -> nn.Module:
    """Give the library's module its config and the check of its input."""
    from timm.models import get_model_input_config

    guest_module: Any = module
    guest_module.network_config = config
    if config.guest == DEEPVIT or get_model_input_config(module)["fixed_input_size"]:
        module.register_forward_pre_hook(_SizeCheck(config))
    return module


class _SizeCheck:
    """Refuses images of another size; a class, so that the module can be copied and pickled with it."""

    def __init__(self, config: GuestConfig) -> None:
        self.config = config

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[2:]
        size = self.config.image_size
        if (height, width) != (size, size):
            raise ConfigError(
                f"image of {height} x {width} pixels: {self.config.guest} is built for {size} x {size}",
                f"resize the image, or build the network with image_size={height}",
            )


def check_guest(config: GuestConfig) -> None:
    """See that the network works at its image size and with its stochastic depth: on the meta device, where nothing is
    computed.

    Raises:
        ConfigError: it does not.
    """
    import torch

    native = _native_size(config)
    try:
        with torch.device("meta"):
            build(config).eval()(torch.empty(1, 3, config.image_size, config.image_size))
    except CoatnetError:
        raise
    except Exception as error:  # each architecture fails in its own way
        raise ConfigError(
            f"{config.guest} does not work at {config.image_size} px: {first_line(error)}",
            f"it is made for {native} px; most networks take multiples of 32",
        ) from None


def first_line(error: Exception) -> str:
    """What another library's error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def guest_size(config: GuestConfig, height: int, width: int) -> tuple[int, int]:
    """Parameters, and multiply-adds for one image of `height` x `width` pixels, counted by torch on the meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(config).eval()
        network(torch.empty(1, 3, height, width))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def undecayed(model: nn.Module) -> set[nn.Parameter]:
    """What timm does not decay in a guest: biases, norms, and what its makers exempt. Nothing for a member."""
    if not isinstance(getattr(model, "network_config", None), GuestConfig):
        return set()
    from timm.optim import param_groups_weight_decay

    exempt = getattr(model, "no_weight_decay", None)
    groups = param_groups_weight_decay(model, weight_decay=1.0, no_weight_decay_list=exempt() if exempt else ())
    return {parameter for group in groups if not group["weight_decay"] for parameter in group["params"]}
