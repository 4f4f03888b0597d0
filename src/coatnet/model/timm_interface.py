"""What code written for timm's networks asks of a network: features, a head that can be taken off, groups of layers.

Names, arguments and results are timm's (https://huggingface.co/docs/timm/feature_extraction).
Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from coatnet.errors import ConfigError
from coatnet.model.attention import RelativeBias
from coatnet.model.config import SMALLEST_IMAGE, CoAtNetConfig, changed
from coatnet.model.initialisation import initialise
from coatnet.model.mbconv import channels_last

if TYPE_CHECKING:
    from coatnet.model.coatnet import Head

# Mean and standard deviation of ImageNet-1K's training images on the scale 0..1: what coatnet subtracts and divides by.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pretrained_cfg(config: CoAtNetConfig) -> dict[str, Any]:
    """timm's record of a network: the images it is made for, and the names of its first and its last layer."""
    return {
        "architecture": None,
        "num_classes": config.num_classes,
        "input_size": (config.input_channels, config.image_size, config.image_size),
        "min_input_size": (config.input_channels, SMALLEST_IMAGE, SMALLEST_IMAGE),
        "fixed_input_size": False,
        "pool_size": config.grids(config.image_size, config.image_size)[-1],
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": _MEAN,
        "std": _STD,
        "first_conv": "stem.embed" if config.stem == "patch" else "stem.reduce",
        "classifier": "head.classes",
    }


class TimmInterface(nn.Module):
    """The part of `CoAtNet` that has timm's names."""

    network_config: CoAtNetConfig
    stages: nn.ModuleList
    head: Head
    recompute: bool

    def __init__(self, config: CoAtNetConfig) -> None:
        super().__init__()
        self.network_config = config
        """Not called `config`: peft, transformers and others take an attribute of that name for one of theirs."""
        self.in_chans, self.num_classes = config.input_channels, config.num_classes
        self.num_features = config.stages[-1].width
        self.head_hidden_size = config.head_hidden_width or self.num_features
        modules = ["stem", *(f"stages.{index}" for index in range(len(config.stages)))]
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": module}
            for channels, stride, module in zip(config.feature_channels, config.feature_strides, modules, strict=True)
        ]
        self.pretrained_cfg = self.default_cfg = pretrained_cfg(config)  # two names of timm's, new and old

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """The map that the head takes, `(B, num_features, H / 32, W / 32)` in the paper's networks.

        Args:
            images_BCHW: as in `forward`.
        """
        return self._maps(images_BCHW, len(self.stages))[-1]

    def forward_head(self, x_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a map.

        Args:
            x_BCHW: what `forward_features` gives.
            pre_logits: give what goes into the classes layer instead, `(B, head_hidden_size)`.
        """
        return self.head(channels_last(x_BCHW), pre_logits)

    def forward_intermediates(  # noqa: PLR0913 (timm's arguments)
        self,
        images_BCHW: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps after stem and stages, and the last one.

        Args:
            images_BCHW: as in `forward`.
            indices: which maps: 0 is the stem's, negative ones count from the end; a number takes the last ones, None
                all.
            norm: has no effect: the norm before the classes follows the pool.
            stop_early: compute no stage after the last map that is asked for.
            output_fmt: only NCHW, `(B, C, H, W)`.
            intermediates_only: leave out the last map.

        Returns:
            The last map that was computed and a list of those that were asked for; only the list for
            `intermediates_only`.

        Raises:
            ConfigError: there is no such map, or another format.
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt is {output_fmt!r}; maps are given as NCHW")
        taken = self._taken(indices)
        maps = self._maps(images_BCHW, max(taken) if stop_early else len(self.stages))
        intermediates = [maps[index] for index in taken]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps asked for do not need; `network_config` goes on to describe the network as it was.

        Args:
            indices: as in `forward_intermediates`.
            prune_norm: remove the norm before the classes.
            prune_head: remove the head; it goes in any case when stages go.

        Returns:
            The indices, counted from the start.
        """
        taken = self._taken(indices)
        shortened = max(taken) < len(self.stages)
        self.stages = self.stages[: max(taken)]
        if shortened:
            self.num_features = self.head_hidden_size = self.network_config.feature_channels[max(taken)]
        if shortened or prune_norm:
            self.head.norm = nn.Identity()
        if shortened or prune_head:
            self.head.hidden = nn.Identity()
            self.head_hidden_size = self.num_features
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The classes layer; Identity where it was taken off."""
        return self.head.classes

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a new classes layer; norm and hidden layer of the head stay.

        Args:
            num_classes: logits; 0 takes the layer off, and the network gives `(B, head_hidden_size)` features.
            global_pool: "avg" for the mean over the map, "" for none: `(B, head_hidden_size, H, W)` features, only
                without classes. None leaves it as it is.

        Raises:
            ConfigError: numbers or words that do not validate.
        """
        pool = self.head.global_pool if global_pool is None else global_pool
        if pool not in {"avg", ""}:
            raise ConfigError(f"global_pool is {pool!r}, expected 'avg' or ''")
        if num_classes and not pool:
            raise ConfigError(f"{num_classes} classes need a pooled map", "give global_pool='avg', or no classes")
        config = changed(self.network_config, {"num_classes": num_classes})
        near = next(self.parameters())
        layer = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        layer.apply(lambda module: initialise(module, config.initialisation))
        self.head.classes = layer.to(near.device, near.dtype)
        self.head.global_pool, self.num_classes, self.network_config = pool, num_classes, config

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block for the backward pass, as `recompute` says."""
        self.recompute = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names for layer-wise rates: stem, blocks (stages if `coarse`); the rest is the head."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names of the relative tables: matrices that, like biases and norms, are not decayed (the lineage's rule).

        timm's optimizers ask for them.
        """
        return {f"{name}.table" for name, module in self.named_modules() if isinstance(module, RelativeBias)}

    def _maps(self, images_BCHW: Tensor, num_stages: int) -> list[Tensor]:
        """The maps after the stem and the first stages, `(B, C, H, W)`."""
        raise NotImplementedError

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        """Which maps are asked for, counted from the start.

        Raises:
            ConfigError: there is no such map.
        """
        count = len(self.stages) + 1
        if indices is None or isinstance(indices, int):
            indices = range(-(count if indices is None else indices), 0)
        taken = [index + count if index < 0 else index for index in indices]
        if not taken or min(taken) < 0 or max(taken) >= count:
            raise ConfigError(f"indices are {list(indices)}; the network has the maps 0 to {count - 1}")
        return taken
