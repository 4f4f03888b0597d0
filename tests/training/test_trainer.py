"""The trainer's network is its own: laid out for speed, with the numbers of an ordinary one."""

import torch

from coatnet.training.trainer import Trainer
from training.test_loop import config


def test_weights_lie_as_convolutions_read_them_fastest() -> None:
    weight = Trainer(config(), torch.device("cpu")).state.model.get_parameter("stem.mix.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
