import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from coatnet.model.attention import Grid, RelativeAttention, RelativeBias, _attend, relative_index, resize_table


def slow_attention(layer: RelativeAttention, x: Tensor, grid: Grid) -> Tensor:
    """Equation 3 of the paper with its appendix A.1, one number at a time."""
    height, width = grid
    weight, bias = layer.query_key_value.weight, layer.query_key_value.bias
    heads, size = layer.num_heads, weight.shape[0] // 3 // layer.num_heads
    assert layer.relative_bias is not None
    table = layer.relative_bias.table
    output = torch.zeros(x.shape[0], height * width, heads * size, dtype=x.dtype)
    for sample in range(x.shape[0]):
        projected = [weight @ token + bias for token in x[sample]]
        for head in range(heads):
            query, key, value = (
                [token[part * heads * size + head * size :][:size] for token in projected] for part in range(3)
            )
            for i in range(height):
                for j in range(width):
                    here = i * width + j
                    scores = []
                    for k in range(height):
                        for m in range(width):
                            product = sum(query[here][c] * key[k * width + m][c] for c in range(size))
                            offset = table[head, i - k + height - 1, j - m + width - 1]
                            scores.append(math.exp(product / math.sqrt(size) + offset))
                    mixed = sum(score * value[place] for place, score in enumerate(scores)) / sum(scores)
                    output[sample, here, head * size : (head + 1) * size] = mixed
    return output @ layer.output.weight.T + layer.output.bias


def random_layer(grid: Grid, input_width: int = 6, width: int = 8, head_size: int = 4) -> RelativeAttention:
    torch.manual_seed(0)
    layer = RelativeAttention(input_width=input_width, width=width, head_size=head_size, grid=grid).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@pytest.mark.parametrize("grid", [(3, 3), (2, 4), (4, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_slow_loop(grid: Grid, training: bool) -> None:
    layer = random_layer(grid).train(training)
    x = torch.randn(2, grid[0] * grid[1], 6, dtype=torch.float64)
    with torch.set_grad_enabled(training):
        found = layer(x, grid)
    with torch.no_grad():
        expected = slow_attention(layer, x, grid)
    assert (found - expected).abs().max() < 1e-10


def test_training_on_cpu_computes_what_torch_does() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=True)
    ours = _attend(q, k, v, bias)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), (q, k, v, bias)),
        torch.autograd.grad((theirs * weights).sum(), (q, k, v, bias)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@given(st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_the_bias_depends_only_on_the_offset(height: int, width: int) -> None:
    index = relative_index((height, width))
    places = [(i, j) for i in range(height) for j in range(width)]
    seen: dict[tuple[int, int], int] = {}
    for query, (i, j) in enumerate(places):
        for key, (k, m) in enumerate(places):
            assert seen.setdefault((i - k, j - m), int(index[query, key])) == index[query, key]
    assert sorted(seen.values()) == list(range((2 * height - 1) * (2 * width - 1)))


@pytest.mark.parametrize("grid", [(7, 7), (3, 9), (2, 2)])
def test_a_constant_table_stays_constant_at_any_size(grid: Grid) -> None:
    table = torch.full((2, 7, 9), 0.25)
    torch.testing.assert_close(resize_table(table, grid), torch.full((2, 2 * grid[0] - 1, 2 * grid[1] - 1), 0.25))


def read(bias: RelativeBias) -> Tensor:
    with torch.no_grad():
        return bias((3, 3), torch.float32)


def overwritten_behind_the_version(bias: RelativeBias) -> None:
    """As moving averages and Lookahead swap weights in and out."""
    bias.table.data.copy_(bias.table.data + 1)


def overwritten_in_inference_mode(bias: RelativeBias) -> None:
    with torch.inference_mode():
        bias.table.add_(1)


def in_storage(bias: RelativeBias) -> None:
    bias.table.data = bias.table.data + 1


def by_a_state_dict(bias: RelativeBias) -> None:
    bias.load_state_dict({"table": bias.table.detach() + 1})


CHANGES = [overwritten_behind_the_version, overwritten_in_inference_mode, in_storage, by_a_state_dict]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("made_in_inference_mode", [False, True])
def test_a_changed_table_is_never_answered_from_memory(change, made_in_inference_mode: bool) -> None:
    with torch.inference_mode(made_in_inference_mode):
        bias = RelativeBias(2, (3, 3)).eval()
        before = read(bias)
        change(bias)
        assert torch.equal(read(bias), before + 1)


def test_a_first_forward_without_memory_leaves_nothing_behind() -> None:
    """As memory estimates and compilers run a network: on tensors that have shapes only."""
    bias = RelativeBias(2, (3, 3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        bias((3, 3), torch.float32)
    with torch.device("meta"):
        copy.deepcopy(bias).to("meta")((3, 3), torch.float32)
    assert type(bias((3, 3), torch.float32)) is Tensor
    assert bias.table.grad is None
    assert [*vars(bias)] == [*vars(RelativeBias(2, (3, 3)))]


def test_with_gradients_the_bias_reaches_the_table() -> None:
    bias = RelativeBias(2, (3, 3)).eval()
    with torch.no_grad():
        bias((3, 3), torch.float32)
    bias((3, 3), torch.float32).sum().backward()
    assert bias.table.grad is not None
    assert bias.table.grad.sum() == 2 * 81


def slow_resize(table: Tensor, grid: Grid) -> Tensor:
    """Bilinear, half-pixel centres, no antialias: one number at a time."""
    heads, *size = table.shape
    new = (2 * grid[0] - 1, 2 * grid[1] - 1)
    resized = torch.zeros(heads, *new, dtype=table.dtype)

    def neighbours(place: int, old_size: int, new_size: int) -> list[tuple[int, float]]:
        centre = max((place + 0.5) * old_size / new_size - 0.5, 0.0)
        low = min(int(centre), old_size - 1)
        share = centre - low
        return [(low, 1 - share), (min(low + 1, old_size - 1), share)]

    for i in range(new[0]):
        for j in range(new[1]):
            for row, row_share in neighbours(i, size[0], new[0]):
                for column, column_share in neighbours(j, size[1], new[1]):
                    resized[:, i, j] += row_share * column_share * table[:, row, column]
    return resized


RESIZES = [((4, 4), (7, 7)), ((7, 7), (3, 3)), ((4, 4), (3, 6)), ((4, 4), (6, 3)), ((5, 3), (2, 8)), ((3, 3), (1, 1))]


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_a_table_is_resized_bilinearly(old: Grid, new: Grid) -> None:
    torch.manual_seed(0)
    table = torch.randn(2, 2 * old[0] - 1, 2 * old[1] - 1, dtype=torch.float64)
    found = resize_table(table, new)
    size = (2 * new[0] - 1, 2 * new[1] - 1)
    theirs = torch.nn.functional.interpolate(table[None], size, mode="bilinear", align_corners=False, antialias=False)
    torch.testing.assert_close(found, theirs[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found, slow_resize(table, new), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(5, 5), (2, 2), (2, 5), (5, 2)])
def test_attention_at_another_grid_uses_the_resized_table(grid: Grid) -> None:
    layer = random_layer((3, 3)).eval()
    x = torch.randn(1, grid[0] * grid[1], 6, dtype=torch.float64)
    assert layer.relative_bias is not None
    with torch.no_grad():
        found = layer(x, grid)
        assert layer.relative_bias.table.shape == (2, 5, 5)  # the trained table keeps its size
        layer.relative_bias.table = torch.nn.Parameter(slow_resize(layer.relative_bias.table, grid))
        torch.testing.assert_close(found, slow_attention(layer, x, grid), rtol=0, atol=1e-6)
