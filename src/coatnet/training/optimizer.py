"""AdamW with the right parameters decayed, the schedule, the moving average: from torch and timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.poly_lr import PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from coatnet.model.attention import RelativeBias
from coatnet.model.guests import undecayed
from coatnet.model.layers import ordered_layers
from coatnet.training.config import OptimizerConfig

_LINE: dict[str, Any] = {"power": 1.0}
EMA_WARMUP_POWER = 0.75
"""Growth of the average's decay, 1 - (1 + step)^-power: timm's advice for runs below a million steps."""


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; biases, norms and relative tables are not decayed (the lineage's rule, paper 8.4 point 8).

    With a layer decay the groups are layers, the head first; `lr_scale` is what timm's schedules multiply the rate by.
    """
    tables = {module.table for module in model.modules() if isinstance(module, RelativeBias)} | undecayed(model)
    layers = [model] if config.layer_decay == 1 else ordered_layers(model)[::-1]
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_scale": config.layer_decay**distance}
        for distance, layer in enumerate(layers)
        for parameters, decay in _by_decay(layer, tables, config.weight_decay)
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def _by_decay(
    layer: nn.Module, tables: set[nn.Parameter], weight_decay: float
) -> Iterator[tuple[list[nn.Parameter], float]]:
    """The parameters of a layer that are decayed, then those that are not."""
    parameters = list(layer.parameters())
    yield [one for one in parameters if one.ndim > 1 and one not in tables], weight_decay
    yield [one for one in parameters if one.ndim <= 1 or one in tables], 0.0


def create_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, num_steps: int) -> Scheduler:
    """Linear warm-up, then a cosine or a line: a function of the step alone, through `step_update(step)`."""
    warmup_steps = round(config.warmup * num_steps)
    kind, power = (CosineLRScheduler, {}) if config.schedule == "cosine" else (PolyLRScheduler, _LINE)
    return kind(
        optimizer,
        t_initial=max(2, num_steps - warmup_steps),  # of the fall of a single step, timm warns, only its start is used
        lr_min=config.final_learning_rate,
        warmup_t=warmup_steps,
        # The first step already moves: a rate of 0 would waste it.
        warmup_lr_init=config.learning_rate / (warmup_steps + 1),
        warmup_prefix=True,
        t_in_epochs=False,
        **power,
    )


class MovingAverage(ModelEmaV3):
    """timm's average of weights and running statistics, whose tensors are paired by name.

    They are looked up at each update: any of them may have been replaced since the last one, by `.to`, a compiler, or
    whoever evaluates the average.
    """

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Move the average towards a network.

        Args:
            model: has the same tensors by name and shape.
            decay: 0 to 1, the average's own part.

        Raises:
            ValueError: the network's tensors have other names than the average's.
        """
        ours, theirs = self.module.state_dict(), model.state_dict()
        if ours.keys() != theirs.keys():
            raise ValueError(f"the network and its average differ in {sorted(ours.keys() ^ theirs.keys())[:5]}")
        super().apply_update_(model, decay)


def create_ema(model: nn.Module, config: OptimizerConfig) -> MovingAverage | None:
    """The moving average of weights and running statistics, its decay warmed up; None if it is off."""
    if not config.ema:
        return None
    return MovingAverage(model, decay=config.ema, use_warmup=True, warmup_power=EMA_WARMUP_POWER)
