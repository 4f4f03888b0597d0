"""The folded network gives the logits of the network, whatever its form and the size of the images."""

import pytest
import torch
from torch import nn

from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.runtime.folding import fold

TOLERANCE = 1e-5


def lively(config):
    """A network whose norms, biases and tables all do something, as after training."""
    generator = torch.Generator().manual_seed(0)
    model = create_model(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            elif name.endswith("table"):
                parameter.normal_(0, 1, generator=generator)
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return model


def tiny(layout="CCTT", **choices):
    letters = layout.replace("-", "")
    depths, widths = (2, *[2] * len(letters)), (8, *(16 * (index + 1) for index in range(len(letters))))
    return CoAtNetConfig.from_layout(layout, depths, widths, num_classes=5, head_size=16, image_size=64, **choices)


FORMS = {
    "paper": tiny(),
    "CCCT": tiny("CCCT"),
    "CTTT": tiny("CTTT"),
    "CCCC": tiny("CCCC"),
    "mixed stage": tiny("C-C-CT-T"),
    "vit": CoAtNetConfig.from_layout("ViT", (2,), (32,), num_classes=5, head_size=16, image_size=64),
    "strides": tiny(strides=(1, 2, 2, 2, 1)),
    "strided depthwise": tiny(stride_location="depthwise"),
    "average pool": tiny(pool="average"),
    "layer norm": tiny(convolution_norm="layer"),
    "no squeeze": tiny(squeeze_ratio=0),
    "no bias": tiny(relative_attention=False),
    "bias after the softmax": tiny(bias_position="after"),
    "windows": tiny(attention="window"),
    "linear attention": tiny(attention="linear", relative_attention=False),
    "no hidden layer": tiny(hidden_width=0),
    "erf, no stem bias": tiny(gelu="erf", stem_bias=False),
    "stochastic depth": tiny(stochastic_depth=0.3),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(64, 64), (45, 71)])
def test_every_form_is_folded_exactly(form, size):
    model = lively(FORMS[form])
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(images), fold(model, size)(images)
    assert expected.std() > 0.05
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1)


def test_no_batch_norm_is_left_and_the_network_is_as_before():
    model = lively(FORMS["paper"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold(model.train(), (64, 64))
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not folded.training
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert torch.equal(model.state_dict()["head.classes.weight"], before["head.classes.weight"])


def test_a_side_that_is_too_small_is_named():
    with pytest.raises(ConfigError, match="image_size 16x64 is below 32"):
        fold(create_model(FORMS["paper"]), (16, 64))


@pytest.mark.parametrize(
    "name", ["coatnet_mini_32", "coatnet_small_64", pytest.param("coatnet_0", marks=pytest.mark.slow)]
)
def test_members_are_folded_exactly(name):
    model = lively(create_model(name, num_classes=7).network_config)
    size = (model.network_config.image_size, model.network_config.image_size)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(images), fold(model, size)(images)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1)
