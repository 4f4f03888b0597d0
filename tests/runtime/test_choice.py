"""What `auto` takes, and what it takes where less is installed."""

import importlib.util

import pytest
import torch

from coatnet.runtime.choice import choose_runtime


def test_a_cpu_with_everything_takes_openvino():
    assert choose_runtime("auto", "cpu") == "openvino"
    assert choose_runtime("auto") == ("torch" if torch.cuda.is_available() else "openvino")


@pytest.mark.parametrize(("missing", "chosen"), [(("openvino",), "onnx"), (("openvino", "onnxscript"), "torch")])
def test_what_is_not_installed_is_not_taken(missing, chosen, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else real(name))
    assert choose_runtime("auto", "cpu") == chosen


@pytest.mark.parametrize("runtime", ["torch", "compiled", "onnx", "openvino"])
def test_a_runtime_that_is_named_stays(runtime):
    assert choose_runtime(runtime) == runtime


def test_another_device_means_torch():
    assert choose_runtime("auto", "cuda:0") == "torch"
