import json

import numpy as np
import pytest
import torch

from coatnet.cli import main
from coatnet.data.sources import DataConfig
from coatnet.errors import ConfigError
from coatnet.model.family import FAMILY
from coatnet.model.size import model_size
from coatnet.study.advise import Limit, _choose, advise, measure_latency, parse_limit
from coatnet.study.plan import PlannedRun
from coatnet.study.results import Moment, Result


def result(arm: str, seed: int, top1: float) -> Result:
    run = PlannedRun(name=f"{arm}-{seed}", experiment="generalization", arm=arm, setting=0.1, seed=seed)
    moment = Moment(1, 1.0, 0.5, 1.0, 0.5)
    return Result(run, 1e-3, 100, (moment,), top1, "test", 1.0, 1.0)


def test_limits_are_read() -> None:
    assert parse_limit("20ms", None) == Limit(latency=pytest.approx(0.02))
    assert parse_limit("0.5s", None) == Limit(latency=0.5)
    assert parse_limit(None, "10M") == Limit(parameters=1e7)
    for latency, parameters in ((None, None), ("1s", "1M"), ("20", None), ("0ms", None), (None, "4G"), (None, "many")):
        with pytest.raises(ConfigError):
            parse_limit(latency, parameters)


def test_the_largest_member_within_the_limit(capsys) -> None:
    for limit, expected in (("4M", "coatnet_mini_32"), ("1000M", "coatnet_small_32")):
        assert main(["study", "advise", "digits", "--parameters", limit, "--json"]) == 0
        advice = json.loads(capsys.readouterr().out)
        assert advice["name"] == expected
        assert advice["parameters"] == model_size(FAMILY[expected].replace(num_classes=10)).parameters
        assert advice["latency"] > 0
    assert main(["study", "advise", "digits", "--parameters", "0.01M"]) == 2
    assert "parameters" in capsys.readouterr().err


def test_below_the_smallest_member_a_smaller_network_is_advised() -> None:
    smallest = model_size(FAMILY["coatnet_mini_32"].replace(num_classes=10)).parameters
    advice = advise(DataConfig(path="digits"), Limit(parameters=1e6), device="cpu")
    assert advice.layout == "CCTT" == advice.config.layout.replace("-", "")
    assert 0.24 * smallest < advice.parameters == model_size(advice.config).parameters <= 1e6
    assert advice.name == f"CCTT of {advice.parameters / 1e6:.2f} M parameters"


def test_a_latency_is_what_was_measured_and_meets_the_limit() -> None:
    advice = advise(DataConfig(path="digits"), Limit(latency=60.0), device="cpu")
    assert advice.name == "coatnet_small_32"
    assert advice.latency <= 60.0
    with pytest.raises(ConfigError, match=r"CCTT of 0\.\d+ M parameters takes"):
        advise(DataConfig(path="digits"), Limit(latency=1e-9), device="cpu")


def test_a_larger_network_is_slower(tiny_config) -> None:
    torch.manual_seed(0)
    wider = FAMILY["coatnet_small_32"]
    assert measure_latency(tiny_config, "cpu") < measure_latency(wider, "cpu")


def test_the_study_decides_between_layouts() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, 5)
    clear = [result("CCCC", seed, 0.8) for seed in range(5)] + [result("CCTT", s, 0.7 + noise[s]) for s in range(5)]
    layout, reason, runs = _choose(clear, 500)
    assert layout == "CCCC"
    assert "at 500 images CCCC" in reason
    assert set(runs) == {f"CCCC-{seed}" for seed in range(5)}
    near = [result("CCCC", seed, 0.701) for seed in range(5)] + clear[5:]
    layout, reason, runs = _choose(near, 500)
    assert layout == "CCTT"
    assert "cannot be told from it" in reason
    assert len(runs) == 10
