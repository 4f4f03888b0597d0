"""Maps that are computed again give the same step, from less memory."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model

CONFIG = CoAtNetConfig.from_layout(
    "CCTT", (2, 2, 2, 2, 1), (8, 16, 16, 32, 32), image_size=32, num_classes=5, stochastic_depth=0.3
)


def network(recompute: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_model(CONFIG).train()
    model.recompute = recompute
    for number, module in enumerate(model.modules()):
        if hasattr(module, "uniform_B"):
            module.uniform_B = torch.rand(6, generator=torch.Generator().manual_seed(number))
    return model


def images() -> torch.Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_same_bits(half: bool) -> None:
    results = []
    for recompute in (False, True):
        model = network(recompute)
        for _ in range(2):  # the second pass sees what batch norms remember of the first
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(images())
            logits.float().square().sum().backward()
        gradients = {f"gradient of {name}": one.grad for name, one in model.named_parameters()}
        results.append({"logits": logits, **gradients, **model.state_dict()})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def kept_bytes(recompute: bool) -> int:
    """What a forward pass takes and does not give back."""
    model, batch = network(recompute), images()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        logits = model(batch)
    del logits
    return sum(event.self_device_memory_usage or event.self_cpu_memory_usage for event in seen.key_averages())


def test_less_is_kept() -> None:
    assert kept_bytes(True) < 0.4 * kept_bytes(False)


def test_nothing_is_kept_where_no_gradient_is_asked_for() -> None:
    model = network(True).eval()
    with torch.no_grad():
        assert torch.equal(model(images()), network(False).eval()(images()))
