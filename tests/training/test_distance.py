"""How far images are from those of the initial weights: against the formula in NumPy, and what a recipe makes of it."""

import numpy as np
import pytest
import torch

from coatnet.classifier import Classifier
from coatnet.data.images import decode
from coatnet.data.sources import open_data
from coatnet.model.family import create_model
from coatnet.training.config import lay_over
from coatnet.training.distance import NEAR, statistics_distance
from coatnet.training.initial import initial_state
from coatnet.training.recipes import finetune
from training.test_initial import DIGITS, PREPROCESS, source


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("source") / "source"
    network = create_model("timm/test_resnet", num_classes=10, image_size=40)
    Classifier(network, PREPROCESS, DIGITS).save(folder)
    return finetune("digits", folder)


def test_hybrids_are_not_told_apart(tmp_path):
    hybrid = finetune("digits", source(tmp_path / "source"))
    assert statistics_distance(hybrid, open_data(hybrid.data).train) is None
    assert (hybrid.optimizer.learning_rate, hybrid.optimizer.batch_norms) == (1e-3, "moving")


def test_the_distance_is_that_of_the_formula(config):
    network = create_model(config.model)
    network.load_state_dict(initial_state(config)[0])
    train = open_data(config.data).train
    chosen = np.unique(np.linspace(0, len(train) - 1, 200).astype(int))
    images = np.stack([config.preprocess(decode(train.read(index))) for index in chosen])
    found = []

    def note(layer, given):
        seen = given[0].double().numpy()
        mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3)) + layer.eps
        stored = layer.running_var.numpy() + layer.eps
        divergence = (variance + (mean - layer.running_mean.numpy()) ** 2) / stored - 1 - np.log(variance / stored)
        found.append(torch.tensor(divergence / 2).median().item())

    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(note)
    with torch.inference_mode():
        network.eval()(torch.from_numpy(images))
    assert statistics_distance(config, train) == pytest.approx(np.mean(found), rel=1e-3)


def test_near_images_keep_the_statistics_and_far_ones_get_a_high_rate(config):
    far = statistics_distance(config, open_data(config.data).train) > NEAR
    assert config.optimizer.batch_norms == ("moving" if far else "kept")
    assert config.optimizer.learning_rate == (3e-3 if far else 3e-4)
    assert any(line.startswith(f"images: {'far from' if far else 'near to'}") for line in config.choices)
    asked = lay_over(config, optimizer={"learning_rate": 1e-4})
    assert "learning rate: 0.0001, as asked" in asked.choices
