"""The attention of timm's own CoAtNets taken apart equals what their blocks compute, part by part."""

import numpy as np
import pytest
import torch
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch.nn import functional

import coatnet
from coatnet.classifier import Classifier
from coatnet.explanation.attention import rollout
from coatnet.explanation.record import watched
from coatnet.explanation.timm_coatnet import timm_attention_layers, timm_block_attention

# One of each kind of bias: a flat table, a network of the offset, the paper's table; and stages that mix blocks.
NAMES = ("coatnet_pico_rw", "coatnet_rmlp_nano_rw", "coatnet_0", "coatnet_nano_cc")


def network(name, size):
    """A stage and a block of each kind less, and with a bias large enough to matter."""
    torch.manual_seed(0)
    model = MaxxVit(model_cfgs[name], img_size=size, num_classes=3, depths=(1, 1, 2, 2)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "relative_position_bias_table" in parameter_name or "rel_pos.mlp.fc2.weight" in parameter_name:
                parameter.normal_()
            elif "qkv.weight" in parameter_name:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_softmax_of_static_plus_adaptive_times_v_is_the_fused_output_of_every_block(name):
    model = network(name, (96, 64))
    layers = dict(timm_attention_layers(model))
    assert list(layers) == (["S3.1", "S4.1"] if name == "coatnet_nano_cc" else ["S3.0", "S3.1", "S4.0", "S4.1"])
    image = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    projections = {block: layer.proj for block, layer in layers.items()}
    with torch.no_grad(), watched(layers.items()) as given, watched(projections.items()) as attended:
        model(image)
    for block, layer in layers.items():
        found = timm_block_attention(block, layer, given[block].inputs[0])
        assert found.grid == ((6, 4) if block.startswith("S3") else (3, 2))
        expected = attended[block].inputs[0][0].flatten(1).T.numpy()  # (N, h * d)
        for row, column in np.ndindex(*found.grid):
            parts = found.parts((row, column))
            logits = torch.from_numpy(parts.static + parts.adaptive).flatten(1)
            mixed = (functional.softmax(logits, dim=-1)[:, None] @ torch.from_numpy(found.value))[:, 0].flatten()
            np.testing.assert_allclose(mixed.numpy(), expected[row * found.grid[1] + column], rtol=0, atol=1e-5)
        assert found.table.std() > 0.1


def test_such_a_guest_is_explained_as_a_member():
    model = network("coatnet_pico_rw", 64)
    guest = Classifier(model, coatnet.Preprocess(image_size=64), ("a", "b", "c"))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = coatnet.explain(guest, picture, methods=("rollout",), at=(50, 10))
    assert found.left_out == {}
    assert [block.name for block in found.attention] == ["S3.0", "S3.1", "S4.0", "S4.1"]
    np.testing.assert_array_equal(found.heat_map("rollout").values, rollout(found.attention))
    assert found.token_of(found.attention[0]) == (3, 0)
    assert found.attention_map(found.attention[0]).values.sum() == pytest.approx(1, abs=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_windows_are_not_taken_for_the_whole_map():
    """MaxViT is of the same class in timm."""
    model = MaxxVit(model_cfgs["maxvit_pico_rw"], img_size=64, depths=(1, 1, 1, 1))
    assert list(timm_attention_layers(model)) == []
