import math

import pytest
import torch
from torch import nn

from coatnet.model.attention import RelativeBias
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.training.config import OptimizerConfig
from coatnet.training.optimizer import create_ema, create_optimizer, create_schedule

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32), image_size=32, num_classes=4)


def test_only_matrices_and_kernels_are_decayed() -> None:
    model = CoAtNet(CONFIG)
    optimizer = create_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert set(decay) == set(model.parameters())
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            is_weight = isinstance(module, nn.Linear | nn.Conv2d) and parameter is module.weight
            assert decay[parameter] == (0.3 if is_weight else 0.0), module
    assert sum(isinstance(module, RelativeBias) for module in model.modules()) == 2


def test_a_run_of_one_step_has_its_peak_rate_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    config = OptimizerConfig(learning_rate=0.5, warmup=0.0)
    optimizer = create_optimizer(CoAtNet(CONFIG), config)
    create_schedule(optimizer, config, 1).step_update(0)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not caplog.records


def test_layer_decay_scales_every_layer_once() -> None:
    model = CoAtNet(CONFIG)
    config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.0, warmup=0.0, weight_decay=0.3, layer_decay=0.5)
    optimizer = create_optimizer(model, config)
    create_schedule(optimizer, config, 10).step_update(0)
    rate = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert set(rate) == set(model.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rate)
    layers = [model.stem, *(stage[0] for stage in model.stages), model.head]
    for distance, layer in enumerate(reversed(layers)):
        assert {rate[parameter] for parameter in layer.parameters()} == {0.5**distance}
    assert decay[model.head.classes.weight] == 0.3
    assert decay[model.stages[2][0].attention.relative_bias.table] == 0.0
    assert optimizer.param_groups[0]["lr"] == 1.0  # the head's, which the log shows


def test_the_schedule_warms_up_and_follows_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.1, warmup=0.1)
    optimizer = create_optimizer(nn.Linear(2, 2), config)
    schedule = create_schedule(optimizer, config, 100)

    def rate(step: int) -> float:
        schedule.step_update(step)
        return float(optimizer.param_groups[0]["lr"])

    assert 0 < rate(0) < rate(5) < rate(9) < 1.0
    assert rate(10) == pytest.approx(1.0)
    assert rate(55) == pytest.approx(0.55)
    assert rate(99) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90)))
    assert rate(55) == pytest.approx(0.55)  # a function of the step alone


def test_the_average_is_warmed_up_and_follows_statistics() -> None:
    model = nn.BatchNorm1d(1)
    average = create_ema(model, OptimizerConfig(ema=0.9))
    assert average is not None
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(5.0)  # type: ignore[union-attr]
    average.update(model, step=1)
    assert average.module.weight.item() == 3.0  # the first update copies
    with torch.no_grad():
        model.weight.fill_(0.0)
        model.running_mean.fill_(7.0)  # type: ignore[union-attr]
        model.num_batches_tracked.fill_(2)  # type: ignore[union-attr]
    average.update(model, step=1_000_000)
    assert average.module.weight.item() == pytest.approx(2.7)
    assert average.module.running_mean.item() == pytest.approx(5.2)
    assert average.module.num_batches_tracked.item() == 2  # a count is copied
    assert create_ema(model, OptimizerConfig(ema=0.0)) is None
