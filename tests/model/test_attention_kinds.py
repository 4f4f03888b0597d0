"""Each kind of attention against a loop over its tokens, and what the paper says of windows and linear attention."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coatnet.model.attention import Grid, RelativeAttention, RelativeBias
from coatnet.model.attention_kinds import LinearAttention, PostBiasAttention, WindowAttention, create_attention
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, create_model
from coatnet.model.size import further_block_sizes

SIZE, HEADS, WIDTH = 4, 2, 8
CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 8, 16, 32, 32), head_size=SIZE)
KINDS = {
    "global, before": ({}, RelativeAttention),
    "global, no bias": ({"relative_attention": False}, RelativeAttention),
    "global, after": ({"bias_position": "after"}, PostBiasAttention),
    "window, before": ({"attention": "window", "attention_window": 3}, WindowAttention),
    "window, no bias": ({"attention": "window", "attention_window": 3, "relative_attention": False}, WindowAttention),
    "window, after": ({"attention": "window", "attention_window": 3, "bias_position": "after"}, WindowAttention),
    "linear": ({"attention": "linear", "relative_attention": False}, LinearAttention),
}


def layer_of(kind: str, grid: Grid) -> tuple[CoAtNetConfig, nn.Module]:
    torch.manual_seed(0)
    choices, expected = KINDS[kind]
    config = CONFIG.replace(**choices)
    layer = create_attention(config, input_width=6, width=WIDTH, grid=grid).double()
    assert type(layer) is expected
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return config, layer


def slow_attention(config: CoAtNetConfig, layer: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """One token after the other, from the formulas of sections 2.1 and 2.2 and of arXiv 2006.16236."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    window = config.attention_window if config.attention == "window" else 10**6
    mixed = torch.zeros(x.shape[0], len(places), WIDTH, dtype=x.dtype)
    for sample in range(x.shape[0]):
        projected = x[sample] @ layer.query_key_value.weight.T + layer.query_key_value.bias
        for head in range(HEADS):
            query, key, value = (projected[:, part * WIDTH + head * SIZE :][:, :SIZE] for part in range(3))
            for here, (i, j) in enumerate(places):
                others = [
                    n for n, (k, m) in enumerate(places) if (i // window, j // window) == (k // window, m // window)
                ]
                if config.attention == "linear":
                    phi_q, phi_k = nn.functional.elu(query[here]) + 1, nn.functional.elu(key) + 1
                    weights = torch.stack([phi_q @ phi_k[n] for n in others])
                    weights = weights / weights.sum()
                else:
                    logits = torch.stack([query[here] @ key[n] / SIZE**0.5 for n in others])
                    bias = torch.zeros(len(others), dtype=x.dtype)
                    if config.relative_attention:
                        table = layer.relative_bias.table[head]
                        centre = torch.tensor(table.shape) // 2
                        bias = torch.stack(
                            [table[centre[0] + i - places[n][0], centre[1] + j - places[n][1]] for n in others]
                        )
                    after = config.bias_position == "after"
                    weights = logits.softmax(0) + bias if after else (logits + bias).softmax(0)
                mixed[sample, here, head * SIZE :][:SIZE] = weights @ value[others]
    return mixed @ layer.output.weight.T + layer.output.bias


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(6, 6), (4, 5)])
def test_equals_the_slow_loop(kind: str, grid: Grid) -> None:
    config, layer = layer_of(kind, grid)
    x = torch.randn(2, grid[0] * grid[1], 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, grid), slow_attention(config, layer, x, grid), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_receptive_field_ends_at_the_window(kind: str) -> None:
    grid, here = (7, 5), (4, 1)
    config, layer = layer_of(kind, grid)
    x = torch.randn(1, grid[0] * grid[1], 6, dtype=torch.float64, requires_grad=True)
    layer(x, grid)[0, here[0] * grid[1] + here[1]].sum().backward()
    seen = x.grad[0].abs().sum(1).unflatten(0, grid) > 0
    expected = torch.ones(grid, dtype=torch.bool)
    if config.attention == "window":
        expected = torch.zeros(grid, dtype=torch.bool)
        expected[3:6, 0:3] = True
    assert torch.equal(seen, expected)


def test_a_window_as_large_as_the_map_is_global_attention() -> None:
    _, everything = layer_of("global, before", (3, 3))
    _, window = layer_of("window, before", (3, 3))
    window.load_state_dict(everything.state_dict())
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(window(x, (3, 3)), everything(x, (3, 3)), rtol=0, atol=1e-12)


def test_a_map_smaller_than_the_window_it_was_made_for() -> None:
    config, layer = layer_of("window, before", (6, 6))
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x, (2, 2)), slow_attention(config, layer, x, (2, 2)), rtol=0, atol=1e-9)


def block_cost(side: int, **choices: object) -> int:
    """Multiply-adds of one transformer block on a map, by the formula and by torch's counter."""
    config = CoAtNetConfig.from_layout("ViT", (2,), (32,), strides=(8,), image_size=8 * side, **choices)
    (formula,) = further_block_sizes(config)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        create_model(config).stages[0][1](torch.empty(1, side, side, 32))
    assert formula.multiply_adds == counter.get_total_flops() // 2
    return formula.multiply_adds


@pytest.mark.parametrize("kind", ["global", "window", "linear"])
def test_only_global_attention_costs_more_for_each_token_of_a_larger_map(kind: str) -> None:
    choices = {"attention": kind, "relative_attention": False}
    for_each_token = [block_cost(side, **choices) / side**2 for side in (7, 14, 28, 56)]
    if kind == "global":
        assert for_each_token == sorted(set(for_each_token))
    else:
        assert len(set(for_each_token)) == 1


def test_half_precision_survives_many_tokens() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(input_width=32, width=32, head_size=32)
    nn.init.normal_(layer.query_key_value.weight)
    x = torch.randn(1, 56 * 56, 32)
    exact, half = layer(x, (56, 56)), layer.to(torch.float16)(x.half(), (56, 56))
    assert torch.isfinite(half).all()
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_networks_as_they_were_are_unchanged() -> None:
    for name in ("coatnet_0", "coatnet_mini_32"):
        config = FAMILY[name]
        assert (config.attention, config.bias_position) == ("global", "before")
    kinds = {type(module) for module in create_model("coatnet_mini_32").modules()}
    assert RelativeAttention in kinds
    assert RelativeBias in kinds
