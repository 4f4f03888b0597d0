"""The network of a classifier folder, built from files that may say anything. Imports no torch before it is built."""

from pathlib import Path
from typing import TYPE_CHECKING

from coatnet.classifier.folder import WEIGHTS, Contents
from coatnet.errors import ModelFileError
from coatnet.model.size import model_size

if TYPE_CHECKING:
    from torch import nn

BYTES_PER_PARAMETER = 4
"""Weights are stored as float32."""


def build_network(folder: Path, contents: Contents) -> "nn.Module":
    """The network with its weights.

    Raises:
        ModelFileError: config.json describes a network that takes no RGB images, that cannot be built, or that is
            larger than the file of its weights; or the weights are of another.
        ConfigError: this process was forked from one in which torch had computed.
    """
    config, path = contents.config, folder / "config.json"
    if config.input_channels != 3:
        raise ModelFileError(f"{path}: input_channels is {config.input_channels}; a classifier takes RGB images, so 3.")
    import torch

    from coatnet.model.family import create_model
    from coatnet.model.weights import load_weights
    from coatnet.runtime.sharing import check_fork

    check_fork(torch.device("cpu"))
    held = (folder / WEIGHTS).stat().st_size // BYTES_PER_PARAMETER
    try:
        # Counted from the numbers alone, before anything is reserved for a network of that size.
        parameters = model_size(config).parameters
        model = create_model(config) if parameters <= held else None
    except (ArithmeticError, RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path} describes a network that cannot be built: {error}") from None
    if model is None:
        raise ModelFileError(
            f"{path} describes a network of more parameters than the {held} that {WEIGHTS} has room for.",
            "Take all files of the folder from one save.",
        )
    load_weights(model, folder / WEIGHTS)
    return model
