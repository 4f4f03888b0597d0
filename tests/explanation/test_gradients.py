"""Grad-CAM against captum's, integrated gradients against what they must add up to."""

import sys

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from coatnet.errors import MissingPartError
from coatnet.explanation.gradients import grad_cam, integrated_gradients
from coatnet.explanation.record import record
from coatnet.model.family import create_model


class ChannelsFirst(nn.Module):
    """A stage that shows its output as captum wants it."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage
        self.shown = nn.Identity()

    def forward(self, x):
        return self.shown(self.stage(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return create_model(tiny_config).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def test_grad_cam_equals_captums(model, images):
    seen = record(model, images[:1])
    found = grad_cam(seen.logits[0, 1], [seen.maps["S1"], seen.maps["S2"]])
    for index, map_BHW in enumerate(found):
        wrapped = model.stages[index] = ChannelsFirst(model.stages[index])
        expected = LayerGradCam(model, wrapped.shown).attribute(images[:1], target=1, relu_attributions=True)
        torch.testing.assert_close(map_BHW, expected[:, 0].detach(), rtol=1e-4, atol=1e-9)
        assert map_BHW.max() > 0


def test_grad_cam_works_with_frozen_weights(model, images):
    model.requires_grad_(False)
    seen = record(model, images[:1].requires_grad_())
    assert grad_cam(seen.logits[0, 0], [seen.maps["S2"]])[0].isfinite().all()


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(model, images):
    found = integrated_gradients(model, images, target=2)
    assert found.shape == (2, 48, 64)
    with torch.no_grad():
        whole = model(images)[:, 2] - model(torch.zeros_like(images))[:, 2]
    torch.testing.assert_close(found.sum((1, 2)), whole, rtol=0.01, atol=1e-3 * whole.abs().max().item())


def test_without_captum(model, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingPartError, match="captum") as told:
        integrated_gradients(model, images, target=0)
    assert ".[explain]" in told.value.hint
