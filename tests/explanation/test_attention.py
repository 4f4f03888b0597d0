"""Attention taken apart equals what the blocks compute, part by part."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from coatnet.classifier import Classifier
from coatnet.explanation.attention import (
    AttentionParts,
    BlockAttention,
    bias_maps,
    block_attention,
    pooling,
    rollout,
)
from coatnet.explanation.explain import explain
from coatnet.explanation.record import attention_layers, record
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, create_model

TINY = {
    "CCTT": CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 2, 2), (8, 8, 16, 32, 32), image_size=64, head_size=16),
    "CTTT": CoAtNetConfig.from_layout("CTTT", (2, 1, 2, 1, 1), (8, 8, 16, 32, 32), image_size=64, head_size=8),
    "C-C-CT-T": CoAtNetConfig.from_layout(
        "C-C-CT-T", (2, 1, 1, 1, 2, 1), (8, 8, 16, 16, 32, 32), image_size=64, head_size=16
    ),
    "ViT": CoAtNetConfig.from_layout("ViT", (3,), (32,), image_size=64, head_size=16),
    "no bias": CoAtNetConfig.from_layout(
        "CCTT", (2, 1, 1, 1, 1), (8, 8, 16, 32, 32), image_size=64, head_size=16, relative_attention=False
    ),
    "mini": FAMILY["coatnet_mini_32"],
}


def network(config, bias=1.0):
    """With tables large enough to matter."""
    torch.manual_seed(0)
    model = create_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("table"):
                parameter.normal_(std=bias)
            elif "query_key_value.weight" in name:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


def images(height, width, count=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def fused(layer, tokens, grid):
    """What the layer's own fused kernel computes, before the output projection."""
    taken = {}
    handle = layer.output.register_forward_pre_hook(lambda module, inputs: taken.update(attended=inputs[0]))
    with torch.no_grad():
        layer(tokens, grid)
    handle.remove()
    return taken["attended"][0]


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (33, 65)])
@pytest.mark.parametrize("name", TINY)
def test_softmax_of_static_plus_adaptive_times_v_is_the_fused_output_of_every_block(name, size):
    model = network(TINY[name])
    with torch.no_grad():
        seen = record(model, images(*size))
    layers = dict(attention_layers(model))
    assert len(layers) == sum(stage.depth for stage in TINY[name].stages if stage.block == "T")
    for block, layer in layers.items():
        tokens, grid = seen.tokens[block]
        found = block_attention(block, layer, tokens, grid)
        expected = fused(layer, tokens, grid).numpy()
        weights = found.weights()
        by_all = (weights @ found.value).transpose(1, 0, 2).reshape(expected.shape)
        np.testing.assert_allclose(by_all, expected, rtol=0, atol=1e-5)
        for row in range(grid[0]):
            for column in range(grid[1]):
                parts = found.parts((row, column))
                logits = torch.from_numpy(parts.static + parts.adaptive).flatten(1)
                mixed = (functional.softmax(logits, dim=-1)[:, None] @ torch.from_numpy(found.value))[:, 0].flatten()
                query = row * grid[1] + column
                np.testing.assert_allclose(mixed.numpy(), expected[query], rtol=0, atol=1e-5)
                whole_hN = parts.whole.reshape(layer.num_heads, -1)
                np.testing.assert_allclose(whole_hN, weights[:, query], rtol=0, atol=1e-6)


def test_the_static_part_is_translation_equivariant_and_the_same_in_every_image():
    model = network(TINY["CCTT"])
    first, second = (explain(Classifier(model), picture(seed), methods=()).attention[0] for seed in (0, 1))
    here, there = first.parts((0, 1)), first.parts((2, 2))
    np.testing.assert_array_equal(here.static[:, :2, :3], there.static[:, 2:, 1:])
    np.testing.assert_array_equal(here.static, second.parts((0, 1)).static)
    spread = here.adaptive.std()
    assert abs(here.adaptive - second.parts((0, 1)).adaptive).max() > 0.1 * spread
    assert abs(here.adaptive[:, :2, :3] - there.adaptive[:, 2:, 1:]).max() > 0.1 * spread


def picture(seed, size=64):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_the_middle_of_a_bias_map_is_the_query_itself():
    model = network(TINY["CCTT"])
    maps = bias_maps(model)
    assert list(maps) == ["S3.0", "S3.1", "S4.0", "S4.1"]
    block = explain(Classifier(model), picture(0), methods=()).attention[0]
    static = block.parts((1, 2)).static  # a grid of 4 x 4
    assert maps["S3.0"].shape == (2, 7, 7)
    np.testing.assert_array_equal(maps["S3.0"][:, 3, 3], static[:, 1, 2])
    np.testing.assert_array_equal(maps["S3.0"][:, 4, 3], static[:, 2, 2])  # below
    np.testing.assert_array_equal(maps["S3.0"][:, 3, 4], static[:, 1, 3])  # to the right
    assert bias_maps(network(TINY["no bias"])) == {}


def block(grid, weights_NN, name="S3.0"):
    """One head with these weights: its values do not matter, its keys are one-hot."""
    tokens = grid[0] * grid[1]
    query = np.log(np.maximum(weights_NN, 1e-30)) * tokens**0.5
    table = np.zeros((1, 2 * grid[0] - 1, 2 * grid[1] - 1))
    return BlockAttention(name, grid, query[None], np.eye(tokens)[None], np.eye(tokens)[None], table)


def test_rollout_is_the_product_of_the_blocks():
    generator = np.random.default_rng(0)
    first, second = (generator.dirichlet(np.ones(8), size=8) for _ in range(2))
    third = generator.dirichlet(np.ones(2), size=2)
    pooled = np.array([[1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]]) / 4
    half = [0.5 * weights + 0.5 * np.eye(len(weights)) for weights in (first, second, third)]
    expected = (half[2] @ pooled @ half[1] @ half[0]).mean(0)
    found = rollout([block((2, 4), first), block((2, 4), second), block((1, 2), third)])
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-6)


def test_rollout_includes_the_bias():
    model = network(TINY["CCTT"], bias=3.0)
    with_bias = explain(Classifier(model), picture(0), methods=("rollout",)).heat_map("rollout").values
    for _, layer in attention_layers(model):
        torch.nn.init.zeros_(layer.relative_bias.table)
    without = explain(Classifier(model), picture(0), methods=("rollout",)).heat_map("rollout").values
    assert with_bias.shape == without.shape == (4, 4)
    assert abs(with_bias - without).max() > 0.1 * without.mean()


@pytest.mark.parametrize(("before", "after"), [((4, 6), (2, 3)), ((5, 3), (3, 2)), ((3, 4), (3, 4))])
def test_a_pooled_token_is_the_mean_of_those_it_was_pooled_from(before, after):
    values = np.random.default_rng(0).random(before)
    found = (pooling(before, after) @ values.ravel()).reshape(after)
    tensor = torch.from_numpy(values)[None, None]
    expected = tensor if before == after else functional.avg_pool2d(tensor, 2, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(found, expected[0, 0].numpy())


def test_static_shares():
    tokens = 4
    table = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    zeros = np.zeros((1, tokens, 3), np.float32)
    assert BlockAttention("", (2, 2), zeros, zeros, zeros, table).static_shares() == pytest.approx([1.0])
    assert BlockAttention("", (2, 2), zeros, zeros, zeros, 0 * table).static_shares() == pytest.approx([0.0])
    query = np.random.default_rng(0).random((1, tokens, 3), dtype=np.float32)
    assert BlockAttention("", (2, 2), query, query, zeros, 0 * table).static_shares() == pytest.approx([0.0])
    found = BlockAttention("", (2, 2), 5 * query, query, zeros, table).static_shares()
    assert 0 < found[0] < 1


def test_a_place_belongs_to_the_token_that_covers_it():
    covered = BlockAttention("", (4, 2), *[np.zeros((1, 8, 1), np.float32)] * 3, np.zeros((1, 7, 3), np.float32))
    assert covered.token_at(0, 0) == (0, 0)
    assert covered.token_at(0.25, 0.499) == (1, 0)
    assert covered.token_at(0.999, 0.999) == (3, 1)
    assert isinstance(covered.parts((3, 1)), AttentionParts)
