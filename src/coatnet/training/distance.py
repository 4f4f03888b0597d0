"""How far images are from those that a network's weights come from, as its batch norms tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coatnet.data.loader import evaluation_batches
from coatnet.data.sources import Source
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.training.config import TrainConfig
from coatnet.training.initial import initial_state

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn.modules.batchnorm import _BatchNorm

NEAR = 0.09
"""Up to here images are near: photographs of three sets are at 0.045 to 0.053, photographs of hands before a white wall
at 0.131 and 0.144, drawn digits at 0.217 and 0.243 (benchmarks/finetuning.md)."""
IMAGES = 200
"""Training images that are looked at, spread evenly; their statistics are over all places of a feature map too."""
BATCH = 50


def statistics_distance(config: TrainConfig, train: Source) -> float | None:
    """Distance of training images from those of the initial weights.

    For each channel that a batch norm sees: the divergence of a normal distribution with the images' mean and variance
    from one with the running statistics, Kullback and Leibler's; of these the median over channels, and the mean over
    layers.

    Args:
        config: a run with initial weights.
        train: its training images.

    Returns:
        None where no image can be read, and where not all norms are batch norms: for hybrids and transformers nothing
        was measured.

    Raises:
        ModelFileError: the source of the weights is gone, refused or not what it was.
    """
    import torch

    if isinstance(config.model, CoAtNetConfig):  # has layer norms: known without reading the weights
        return None
    state, _ = initial_state(config)  # before the network: a config that lies is refused, not built
    network = create_model(config.model)
    network.load_state_dict(state)
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    moments = [_Moments(layer) for layer in layers if layer.track_running_stats]
    if not moments or any(isinstance(layer, torch.nn.LayerNorm) for layer in network.modules()):
        return None
    sample = train.subset(np.unique(np.linspace(0, len(train) - 1, min(IMAGES, len(train))).astype(int)))
    network.eval()
    with torch.inference_mode():
        for batch in evaluation_batches(sample, config.preprocess, BATCH, config.data.workers):
            if len(batch.indices):
                network(torch.from_numpy(config.preprocess.normalized(batch.images)))
    if not moments[0].count:
        return None
    return float(np.mean([one.distance() for one in moments]))


class _Moments:
    """Mean and variance of what a batch norm is given."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.count = 0
        self.total: Tensor
        self.squares: Tensor
        layer.register_forward_pre_hook(lambda _, given: self._add(given[0]))

    def _add(self, seen: Tensor) -> None:
        rows = seen.double().transpose(0, 1).flatten(1)  # (C, places)
        total, squares = rows.sum(1), rows.square().sum(1)
        self.total, self.squares = (self.total + total, self.squares + squares) if self.count else (total, squares)
        self.count += rows.shape[1]

    def distance(self) -> float:
        mean = self.total / self.count
        variance = self.squares / self.count - mean**2
        stored_mean, stored_variance, eps = self.layer.running_mean, self.layer.running_var, self.layer.eps
        assert stored_mean is not None
        assert stored_variance is not None
        ratio = (variance + eps) / (stored_variance + eps)
        shift = (mean - stored_mean) ** 2 / (stored_variance + eps)
        return float((ratio + shift - 1 - ratio.log()).median() / 2)
