import numpy as np
import pytest
import torch

from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.study.properties import Measured, measure, share_holding

ROUNDING = 1e-9
NO_GATE = {"squeeze_ratio": 0.0}
FORM = {"image_size": 64, "num_classes": 3, "initialisation": "fan", "head_size": 8}


def hybrid(layout: str, strides: tuple[int, ...] = (1, 2, 2, 2, 1), **choices: object) -> CoAtNetConfig:
    depths, widths = (2, *[1] * len(layout)), (8, *[16] * len(layout))
    return CoAtNetConfig.from_layout(layout, depths, widths, strides=strides, **{**FORM, **choices})


def vit(**choices: object) -> CoAtNetConfig:
    return CoAtNetConfig.from_layout("ViT", (2,), (16,), strides=(8,), **{**FORM, **choices})


def measured(config: CoAtNetConfig | str, image_size: int = 64) -> Measured:
    torch.manual_seed(0)
    return measure(create_model(config), "it", image_size)


def test_pure_convolution_moves_with_the_image_and_its_weights_are_fixed() -> None:
    found = measured(hybrid("CCCC", **NO_GATE)).properties
    assert found.stride == 8
    assert found.error_at_stride < ROUNDING
    assert found.error_at_pixels > 0.01  # it subsamples
    assert found.adaptivity == {"convolution": pytest.approx(0, abs=ROUNDING)}
    assert found.input_adaptivity < ROUNDING


def test_without_strides_convolution_moves_by_single_pixels() -> None:
    found = measured(hybrid("C", (1, 1), **NO_GATE)).properties
    assert (found.stride, set(found.equivariance_error)) == (1, {1})
    assert found.error_at_pixels < ROUNDING


def test_relative_attention_moves_with_its_patches_only() -> None:
    found = measured(vit()).properties
    assert found.stride == 8
    assert found.error_at_stride < ROUNDING
    assert found.error_at_pixels > 0.05
    assert found.adaptivity["attention"] > 0.001


def test_learned_positions_do_not_move() -> None:
    assert measured("timm/test_vit", 160).properties.error_at_stride > 0.01


def test_windows_do_not_move_by_less_than_a_window() -> None:
    config = hybrid("CCTT", attention="window", attention_window=4, **NO_GATE)
    found = measured(config).properties
    assert found.error_at_stride > 1e-6


def test_attention_with_fixed_weights_is_not_adaptive() -> None:
    model = create_model(vit())
    for block in model.stages[0]:
        torch.nn.init.zeros_(block.attention.query_key_value.weight[:32])  # queries and keys
    assert measure(model, "it", 64).properties.adaptivity["attention"] < ROUNDING


def test_gates_are_input_adaptive() -> None:
    found = measured(hybrid("CCCC")).properties
    assert found.adaptivity["convolution"] < ROUNDING
    assert found.adaptivity["gate"] > 1e-4
    assert 0 < found.input_adaptivity < found.adaptivity["gate"]


def test_the_receptive_field_of_convolutions_is_what_is_counted_by_hand() -> None:
    # Two 3x3 in the stem at 1 px, then in S1 (stride 2 before its 3x3): 1 + 2 + 2 + 2 * 2 = 9, and the 2x2 pool's.
    found = measured(hybrid("C", (1, 2), **NO_GATE))
    rows, columns = np.nonzero(found.gradient)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (9, 9)
    assert found.properties.reached == 81 / 64**2
    assert 0 < found.properties.receptive_field < found.properties.reached


def test_the_receptive_field_ends_at_the_window_and_is_global_without() -> None:
    found = measured(vit(attention="window", attention_window=4))
    seen = found.gradient > 0
    assert seen[32:, 32:].all()  # the window of the centre: 4 patches of 8 px
    assert not seen[:32].any()
    assert not seen[:, :32].any()
    assert found.properties.reached == 0.25
    whole = measured(vit()).properties
    assert whole.reached == 1
    assert whole.receptive_field > found.properties.receptive_field


def test_nothing_of_the_network_changes() -> None:
    model = create_model(hybrid("CCTT")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    logits = model.eval()(images)
    first, second = measure(model, "it", 64), measure(model, "it", 64)
    assert first.properties == second.properties
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(images), logits)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet", "vit_pytorch/deepvit"])
def test_guests_are_measured(name: str) -> None:
    torch.manual_seed(0)
    size = 32 if "deepvit" in name else 160
    found = measure(create_model(name, image_size=size, num_classes=3), name, size).properties
    assert found.error_at_pixels > 0
    if name == "timm/test_resnet":
        assert found.error_at_stride < ROUNDING
        assert found.adaptivity["convolution"] < ROUNDING


def test_share_of_a_gradient() -> None:
    assert share_holding(np.array([[90.0, 5.0], [5.0, 0.0]]), 0.9) == 0.25
    assert share_holding(np.ones((10, 10)), 0.9) == pytest.approx(0.9, abs=0.011)


def test_sizes_that_do_not_go_are_told() -> None:
    with pytest.raises(ConfigError, match="it makes 9 x 9 places of 67 x 67 px"):
        measured(hybrid("CCCC"), 67)
