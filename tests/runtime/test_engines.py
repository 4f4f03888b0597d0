"""The engine gives what the module gives, and refuses devices that are not there."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from coatnet.errors import ConfigError, MissingPartError
from coatnet.runtime.engines import Engine, TorchEngine, find_device


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 5))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


def test_logits_are_those_of_the_module_in_eval_mode(module, images):
    engine = TorchEngine(module, device="cpu")
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(images)).numpy()
    found = engine.logits(images)
    assert isinstance(engine, Engine)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, engine.logits(images))


def test_a_lent_module_stays_as_it_was(module, images):
    module.train()
    module[0].weight.requires_grad_(False)
    state = module.state_dict()
    before = {name: (tensor.clone(), tensor.stride(), tensor.data_ptr()) for name, tensor in state.items()}
    engine = TorchEngine(module, device="cpu")
    engine.logits(images)
    assert all(child.training for child in module.modules())
    assert [parameter.requires_grad for parameter in module.parameters()] == [False, *[True] * 5]
    for name, tensor in module.state_dict().items():
        values, stride, place = before[name]
        assert torch.equal(tensor, values), name
        assert (tensor.stride(), tensor.data_ptr()) == (stride, place), name


def test_what_is_done_to_a_module_later_does_not_change_the_engine(module, images):
    engine = TorchEngine(module, device="cpu")
    before = engine.logits(images)
    with torch.no_grad():
        module[0].weight.add_(1)
    np.testing.assert_array_equal(engine.logits(images), before)


def test_a_module_that_is_handed_over_is_not_copied(module):
    assert TorchEngine(module, device="cpu", copy=False).model is module


def test_images_in_any_memory_order_are_taken(module, images):
    engine = TorchEngine(module, device="cpu")
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(engine.logits(turned), engine.logits(images))


def test_weights_are_channels_last_and_logits_carry_no_gradient(module, images):
    engine = TorchEngine(module, device="cpu")
    engine.logits(images)
    assert engine.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_what_a_module_caches_here_can_be_trained_on_later():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 3))
            self.cached = None

        def forward(self, x):
            self.cached = x.mean(dim=(2, 3)) if self.cached is None else self.cached
            return self.cached @ self.weight.T

    module = Caching()
    TorchEngine(module, device="cpu").logits(np.ones((2, 3, 4, 4), np.float32))
    module(torch.ones(2, 3, 4, 4)).sum().backward()
    assert module.weight.grad is not None


def test_bfloat16_is_close_but_not_equal(module, images):
    exact = TorchEngine(module, device="cpu").logits(images)
    rounded = TorchEngine(module, device="cpu", precision="bfloat16").logits(images)
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    assert module[0].weight.dtype == torch.float32


def test_an_unknown_precision_is_named(module):
    with pytest.raises(ConfigError, match="precision 'float16' is unknown"):
        TorchEngine(module, precision="float16")


def test_auto_takes_the_best_device_there_is():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert find_device("auto").type == best


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(MissingPartError, match="'cuda:99' is not in this machine") as caught:
        find_device("cuda:99")
    assert caught.value.exit_code == 5
    assert "1 cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu:-1"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(ConfigError, match=f"device '{name}' is unknown"):
        find_device(name)


def test_importing_the_engines_imports_no_torch():
    code = "import sys; sys.modules['torch'] = None; import coatnet.runtime.engines"
    subprocess.run([sys.executable, "-c", code], check=True)
