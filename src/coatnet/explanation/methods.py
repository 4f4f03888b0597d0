"""What the methods give for one image: for a member all of them, for a guest those that apply.

Shapes: B = 1 image, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coatnet.classifier.classifier import softmax
from coatnet.errors import ConfigError
from coatnet.explanation.attention import BlockAttention, block_attention, rollout
from coatnet.explanation.explain import HeatMap, Method
from coatnet.explanation.gradients import grad_cam, integrated_gradients
from coatnet.explanation.receptive_field import effective_receptive_field, stage_receptive_fields
from coatnet.explanation.record import attention_layers, record, watched
from coatnet.explanation.timm_coatnet import timm_attention_layers, timm_block_attention
from coatnet.model.coatnet import CoAtNet
from coatnet.runtime.engines import TorchEngine


class Explainer(ABC):
    """One forward pass with gradients, and the methods that go on from it.

    Args:
        model: the network, in eval mode.
        image_BCHW: one normalised image on the network's device.
    """

    def __init__(self, model: nn.Module, image_BCHW: Tensor) -> None:
        self.model = model
        self.image_BCHW = image_BCHW
        with torch.enable_grad():
            # With a gradient here, there is a graph even through a network whose weights are frozen.
            self.logits_BK = self.forward(image_BCHW.detach().requires_grad_())
        self.logits: NDArray[np.float32] = self.logits_BK.detach().float().cpu().numpy()
        self.probabilities = softmax(self.logits)[0]

    @property
    @abstractmethod
    def without_attention(self) -> str:
        """Why `attention` gives nothing, if it does."""

    @abstractmethod
    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits `(1, K)`; what the methods need is kept."""

    @abstractmethod
    def maps(self) -> dict[str, Tensor]:
        """The feature maps that Grad-CAM looks at, by layer.

        Raises:
            ConfigError: there are none.
        """

    @abstractmethod
    def receptive_fields(self, place: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
        """Of a place of each feature map that is known, by layer.

        Raises:
            ConfigError: none is known.
        """

    @abstractmethod
    def attention(self) -> tuple[BlockAttention, ...]:
        """One for each transformer block; nothing if they are not known."""

    def heat_maps(self, method: Method, target: int, place: tuple[float, float]) -> list[HeatMap]:
        """What one method gives.

        Args:
            method: which one.
            target: the class that is explained.
            place: the place whose receptive field is asked for, as fractions of height and width.

        Raises:
            ConfigError: it does not apply to this network.
            MissingPartError: it needs something that is not installed.
        """
        if method == "grad_cam":
            layers = self.maps()
            found = grad_cam(self.logits_BK[0, target], list(layers.values()))
            maps = {layer: map_BHW[0].float().cpu().numpy() for layer, map_BHW in zip(layers, found, strict=True)}
        elif method == "integrated_gradients":
            maps = {"input": integrated_gradients(self.model, self.image_BCHW, target)[0].cpu().numpy()}
        elif method == "rollout":
            blocks = self.attention()
            if not blocks:
                raise ConfigError(f"attention rollout does not apply: {self.without_attention}")
            maps = {"blocks": rollout(blocks)}
        else:
            maps = self.receptive_fields(place)
        return [HeatMap(method, layer, values) for layer, values in maps.items()]


class MemberExplainer(Explainer):
    """A network of ours."""

    model: CoAtNet

    @property
    def without_attention(self) -> str:
        """Why `attention` gives nothing, if it does: its parts add up only before one softmax over the whole map."""
        config = self.model.network_config
        if config.attention != "global" or config.bias_position != "before":
            return "attention is taken apart only where it is global, with its bias before the softmax"
        return "" if any(stage.block == "T" for stage in config.stages) else "the layout has no transformer block"

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits; what was seen on the way is kept."""
        self.seen = record(self.model, image_BCHW)
        return self.seen.logits

    def maps(self) -> dict[str, Tensor]:
        """Of the convolution stages."""
        stages = zip(self.seen.maps.items(), self.model.network_config.stages, strict=True)
        convolved = {name: map_BHWC for (name, map_BHWC), stage in stages if stage.block == "C"}
        if not convolved:
            raise ConfigError(
                f"Grad-CAM does not apply: layout {self.model.network_config.layout} has no convolution stage"
            )
        return convolved

    def receptive_fields(self, place: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
        """Of each stage."""
        return stage_receptive_fields(self.model, self.image_BCHW, place)

    def attention(self) -> tuple[BlockAttention, ...]:
        """Of each transformer block."""
        if self.without_attention:
            return ()
        return tuple(
            block_attention(name, layer, *self.seen.tokens[name]) for name, layer in attention_layers(self.model)
        )


class GuestExplainer(Explainer):
    """A network of timm's, known by its `forward_features` and `forward_head`, or any other, known by nothing."""

    @property
    def without_attention(self) -> str:
        """The same for every guest but timm's own CoAtNets."""
        return "attention is taken apart only for CoAtNets, ours and timm's"

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits; the last feature map is kept if there is one, and what the attention layers of a CoAtNet were
        given."""
        self._layers = dict(timm_attention_layers(self.model))
        with watched(self._layers.items()) as self._calls:
            return self._forward(image_BCHW)

    def _forward(self, image_BCHW: Tensor) -> Tensor:
        self.map_BHWC = self._features(image_BCHW)
        if self.map_BHWC is None:
            logits_BK: Tensor = self.model(image_BCHW)
            return logits_BK
        return self._head(self.map_BHWC)

    def maps(self) -> dict[str, Tensor]:
        """The last one before the pool."""
        if self.map_BHWC is None:
            raise ConfigError("Grad-CAM does not apply: the network ends in tokens, not in a feature map")
        return {"features": self.map_BHWC}

    def receptive_fields(self, place: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
        """Of the last feature map."""
        if self.map_BHWC is None:
            raise ConfigError("the receptive field is not known: the network ends in tokens, not in a feature map")
        return {"features": effective_receptive_field(self._map, self.image_BCHW, place)}

    def attention(self) -> tuple[BlockAttention, ...]:
        """Of each transformer block of timm's own CoAtNets."""
        return tuple(
            timm_block_attention(name, layer, self._calls[name].inputs[0]) for name, layer in self._layers.items()
        )

    def _map(self, image_BCHW: Tensor) -> Tensor:
        map_BHWC = self._features(image_BCHW)
        assert map_BHWC is not None
        return map_BHWC

    def _features(self, image_BCHW: Tensor) -> Tensor | None:
        """The last feature map, None if the network ends in tokens or is not timm's."""
        forward_features = getattr(self.model, "forward_features", None)
        features = None if forward_features is None else forward_features(image_BCHW)
        if not isinstance(features, Tensor) or features.ndim != 4:
            return None
        return features if self._is_channels_last() else features.permute(0, 2, 3, 1)

    def _head(self, map_BHWC: Tensor) -> Tensor:
        features = map_BHWC if self._is_channels_last() else map_BHWC.permute(0, 3, 1, 2)
        logits_BK: Tensor = self.model.forward_head(features)  # type: ignore[operator]
        return logits_BK

    def _is_channels_last(self) -> bool:
        """timm names the format where it is not channels first, as in Swin."""
        return getattr(self.model, "output_fmt", "NCHW") == "NHWC"


def open_explainer(engine: TorchEngine, image_BCHW: NDArray[np.float32]) -> Explainer:
    """The explainer that fits a network.

    Args:
        engine: with the network.
        image_BCHW: one normalised image.
    """
    kind = MemberExplainer if isinstance(engine.model, CoAtNet) else GuestExplainer
    return kind(engine.model, torch.from_numpy(image_BCHW).to(engine.device))
