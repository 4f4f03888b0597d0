"""The effective receptive field against differences of the network itself."""

import numpy as np
import pytest
import torch

from coatnet.explanation.receptive_field import effective_receptive_field, stage_receptive_fields
from coatnet.explanation.record import record
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model


def test_of_one_convolution_is_its_kernel():
    kernel = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, 0.0], [4.0, 0.0, -1.0]])

    def convolve(images):
        return torch.nn.functional.conv2d(images, kernel.expand(1, 3, 3, 3), padding=1).permute(0, 2, 3, 1)

    found = effective_receptive_field(convolve, torch.randn(2, 3, 8, 10), place=(0.5, 0.25))
    expected = torch.zeros(8, 10)
    expected[3:6, 1:4] = 3 * kernel.abs()
    np.testing.assert_allclose(found, expected)


def test_convolution_sees_a_window_and_attention_everything(tiny_config):
    torch.manual_seed(0)
    config = CoAtNetConfig.from_layout(
        "CCTT", (2, 1, 1, 1, 1), (8, 8, 16, 32, 32), image_size=128, head_size=16, squeeze_ratio=0
    )
    model = create_model(config).eval()
    images = torch.randn(2, 3, 128, 128)
    fields = stage_receptive_fields(model, images)
    assert list(fields) == ["S1", "S2", "S3", "S4"]
    # A stem of two 3x3 convolutions, the second of which sees 5 + 2 pixels, and MBConv's 3x3 at stride 4 and 8.
    seen = {name: np.argwhere(field > 0) for name, field in fields.items()}
    for name, reach in (("S1", 7 + 2 * 4), ("S2", 7 + 2 * 4 + 2 * 8)):
        assert np.ptp(seen[name], axis=0).max() <= reach + 2 * 8
    assert len(seen["S3"]) > 0.9 * 128 * 128


def test_of_a_stage_equals_a_difference_of_the_network(tiny_config):
    torch.manual_seed(0)
    model = create_model(tiny_config).eval().double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    field = stage_receptive_fields(model, images, place=(0.0, 0.99))["S4"]

    def answer(shifted):
        with torch.no_grad():
            return record(model, shifted).maps["S4"][0, 0, -1].sum().item()

    row, column = np.unravel_index(field.argmax(), field.shape)
    moved = 0.0
    for colour in range(3):
        step = torch.zeros_like(images)
        step[0, colour, row, column] = 1e-6
        moved += abs(answer(images + step) - answer(images - step)) / 2e-6
    assert field[row, column] == pytest.approx(moved, rel=1e-3)
