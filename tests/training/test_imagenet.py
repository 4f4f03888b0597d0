"""The recipes are the paper's Table 10, value by value."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coatnet.cli.flags import Asked, build_config
from coatnet.errors import ConfigError
from coatnet.training import recipes
from coatnet.training.config import OptimizerConfig
from coatnet.training.loop import train
from coatnet.training.optimizer import create_optimizer, create_schedule
from coatnet.training.trainer import sigmoid_loss

# Stochastic depth, RandAugment (layers, magnitude), mixup, loss, label smoothing, epochs, batch, peak and last rate,
# schedule, weight decay, clip, average: Table 10, each cell.
TABLE_10 = {
    ("imagenet_1k", "coatnet_0"): (0.2, (2, 15), 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, "cosine", 0.05, 1.0, 0.0),
    ("imagenet_1k", "coatnet_1"): (0.3, (2, 15), 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, "cosine", 0.05, 1.0, 0.0),
    ("imagenet_1k", "coatnet_2"): (0.5, (2, 15), 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, "cosine", 0.05, 1.0, 0.0),
    ("imagenet_1k", "coatnet_3"): (0.7, (2, 15), 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, "cosine", 0.05, 1.0, 0.0),
    ("imagenet_21k", "coatnet_2"): (0.3, None, 0.0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, "linear", 0.01, 1.0, 0.0),
    ("imagenet_21k", "coatnet_3"): (0.5, None, 0.0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, "linear", 0.01, 1.0, 0.0),
    ("imagenet_21k", "coatnet_4"): (0.7, (2, 5), 0.0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, "linear", 0.01, 1.0, 0.0),
    ("jft", "coatnet_3"): (0.0, (2, 5), 0.0, "sigmoid", 1e-4, 14, 4096, 1e-3, 1e-5, "linear", 0.01, 1.0, 0.0),
    ("jft", "coatnet_4"): (0.1, (2, 5), 0.0, "sigmoid", 1e-4, 14, 4096, 5e-4, 1e-5, "linear", 0.01, 1.0, 0.0),
    ("jft", "coatnet_5"): (0.0, (2, 5), 0.0, "sigmoid", 1e-4, 14, 4096, 5e-4, 1e-5, "linear", 0.01, 1.0, 0.0),
}


@pytest.mark.parametrize(("recipe", "model"), TABLE_10)
def test_each_cell_of_table_10(recipe, model):
    config = getattr(recipes, recipe)("digits", model=model)
    augmentation, optimizer, run = config.augmentation, config.optimizer, config.run
    layers = (augmentation.randaugment_layers, augmentation.randaugment_magnitude)
    assert TABLE_10[recipe, model] == (
        config.model.stochastic_depth,
        layers if layers[0] else None,
        augmentation.mixup,
        optimizer.loss,
        augmentation.label_smoothing,
        run.epochs,
        run.batch_size,
        optimizer.learning_rate,
        optimizer.final_learning_rate,
        optimizer.schedule,
        optimizer.weight_decay,
        optimizer.gradient_clip,
        optimizer.ema,
    )
    assert config.preprocess.image_size == (224, 224)


def test_another_batch_changes_the_rate_in_proportion():
    assert recipes.imagenet_1k("digits", batch_size=1024).optimizer.learning_rate == pytest.approx(2.5e-4)


def test_members_without_values_are_refused():
    with pytest.raises(ConfigError, match=r"recipe jft has values for coatnet_3, .*, not for coatnet_7"):
        recipes.jft("digits", model="coatnet_7")


def test_the_linear_schedule_is_a_line():
    config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.1, warmup=0.1, schedule="linear")
    optimizer = create_optimizer(torch.nn.Linear(2, 2), config)
    schedule = create_schedule(optimizer, config, 100)

    def rate(step):
        schedule.step_update(step)
        return optimizer.param_groups[0]["lr"]

    assert 0 < rate(0) < rate(9) < 1
    assert [rate(step) for step in (10, 55, 99)] == pytest.approx([1.0, 0.55, 0.1 + 0.9 / 90])


def test_the_sigmoid_loss_is_a_sum_over_classes():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 7, dtype=torch.float64), torch.rand(4, 7, dtype=torch.float64)
    total = 0.0
    for row in range(4):
        for column in range(7):
            share = 1 / (1 + np.exp(-logits[row, column].item()))
            target = targets[row, column].item()
            total -= target * np.log(share) + (1 - target) * np.log(1 - share)
    assert sigmoid_loss(logits, targets).item() == pytest.approx(total / 4, rel=1e-12)


def test_the_recipe_runs_from_the_command_line(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(8):
            pixels = np.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{index}.png")
    flags = {"run": {"steps": 2, "batch_size": 4}, "data": {"workers": 0}, "model": {}, "optimizer": {}}
    asked = Asked(recipe="imagenet_21k", image_size="32")
    config, _ = build_config(str(tmp_path / "data"), {**flags, "augmentation": {}}, asked)
    assert (config.optimizer.loss, config.model.image_size) == ("sigmoid", 32)
    tiny = config.model.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 8, 16, 32, 32), image_size=32, num_classes=2)
    assert train(config.replace(model=tiny), tmp_path / "run").evaluation.num_images > 0
