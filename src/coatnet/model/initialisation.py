"""First weights of a layer."""

from __future__ import annotations

from torch import nn

from coatnet.model.attention import RelativeBias

INITIAL_DEVIATION = 0.02
"""Standard deviation of every initial weight and relative table. Not in the paper: google-research/maxvit's value."""


def initialise(module: nn.Module, scheme: str) -> None:
    """Set the first weights of one layer; biases are zero.

    Args:
        module: a layer; of any other module nothing is set.
        scheme: `initialisation` of `CoAtNetConfig`.
    """
    if isinstance(module, RelativeBias):
        nn.init.normal_(module.table, std=INITIAL_DEVIATION)
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return
    if scheme == "normal":
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    else:  # groups of a depthwise convolution do not share outputs, which torch's own fan does not know
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
