"""Stochastic depth is what its docstrings say: whole samples, scaled, with rates that grow over the blocks."""

import torch
from torchvision.ops import stochastic_depth

from coatnet.model.family import create_model
from coatnet.model.mbconv import StochasticDepth
from coatnet.model.transformer import TransformerBlock


def test_samples_are_dropped_as_torchvision_drops_rows() -> None:
    torch.manual_seed(0)
    branches = torch.rand(20_000, 3, 2, 2) + 0.5
    ours, theirs = StochasticDepth(0.3).train()(branches), stochastic_depth(branches, 0.3, "row")
    shares = []
    for given in (ours, theirs):
        kept = given.flatten(1).any(1)
        torch.testing.assert_close(given[kept], branches[kept] / 0.7)
        assert not given[~kept].any()
        shares.append(kept.double().mean().item())
    assert all(abs(share - 0.7) < 0.013 for share in shares)  # 4 standard deviations of 20,000 draws
    assert torch.equal(StochasticDepth(0.3).eval()(branches), branches)


def test_rates_grow_from_0_by_the_same_step_in_each_block() -> None:
    model = create_model("coatnet_mini_32", stochastic_depth=0.4)
    blocks = [block for stage in model.stages for block in stage]
    for index, block in enumerate(blocks):
        rates = [module.rate for module in block.modules() if isinstance(module, StochasticDepth)]
        assert rates == [0.4 * index / len(blocks)] * (2 if isinstance(block, TransformerBlock) else 1)
