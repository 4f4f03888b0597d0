"""What is measured is what was asked for, and its figures belong together."""

import numpy as np
import pytest

from coatnet.benchmark.chart import draw
from coatnet.benchmark.measure import Benchmark, Speed, benchmark, peer_of
from coatnet.benchmark.runtimes import RUNTIMES, choose_runtimes, create_engine
from coatnet.benchmark.stages import StageTime
from coatnet.errors import ConfigError, MissingPartError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model, member
from coatnet.model.size import model_size, part_sizes
from coatnet.runtime.openvino_engine import has_bfloat16
from coatnet.runtime.timing import Ceilings, Timing


@pytest.fixture(scope="module")
def measured(tiny_config) -> Benchmark:
    return benchmark(
        "tiny",
        create_model(tiny_config),
        batch_sizes=(1, 3),
        runtimes=("torch-float32", "torch-bfloat16"),
        rounds=3,
        image_size=(32, 48),
        device="cpu",
    )


def test_each_runtime_at_each_batch_size(measured, tiny_config):
    cells = [(one.runtime, one.batch_size) for one in measured.speeds]
    assert cells == [(runtime, size) for size in (1, 3) for runtime in ("torch-float32", "torch-bfloat16")]
    assert all(len(one.timing.seconds) == 3 for one in measured.speeds)
    assert measured.peer is None  # timm has none of this name
    assert measured.multiply_adds == model_size(tiny_config, 32, 48).multiply_adds
    assert list(measured.memory) == ["torch-float32", "torch-bfloat16"]


def test_rates_belong_to_times(measured):
    for one in measured.speeds:
        assert one.images_per_second == one.batch_size / one.timing.median
        precision = measured.ceilings.bfloat16 if one.runtime == "torch-bfloat16" else measured.ceilings.float32
        flops = 2 * measured.multiply_adds * one.images_per_second
        assert one.share_of_ceiling == pytest.approx(flops / precision)


def test_parts_are_those_of_the_network(measured, tiny_config):
    sizes = part_sizes(tiny_config, 32, 48)
    assert [stage.name for stage in measured.stages] == list(sizes) == ["S0", "S1", "S2", "S3", "S4", "head"]
    for stage in measured.stages:
        assert stage.flops * stage.seconds == pytest.approx(2 * 3 * sizes[stage.name].multiply_adds)


def test_halves_of_a_mixed_stage_are_one_part():
    config = CoAtNetConfig.from_layout(
        "C-C-CT-T", (2, 1, 1, 1, 1, 1), (8, 8, 16, 32, 32, 32), image_size=32, num_classes=3, head_size=16
    )
    found = benchmark("mixed", create_model(config), batch_sizes=(1,), runtimes=("torch-float32",), rounds=1)
    assert [stage.name for stage in found.stages] == ["S0", "S1", "S2", "S3", "S4", "head"]


def test_a_guest_has_no_parts():
    model = create_model("timm/test_resnet", num_classes=3)
    found = benchmark("guest", model, batch_sizes=(2,), runtimes=("torch-float32",), rounds=1, device="cpu")
    assert found.stages == ()
    assert found.peer is None


def test_the_peer_has_the_same_name():
    assert peer_of(member("coatnet_1"), (224, 224)) == "timm/coatnet_1_224"
    assert peer_of(member("coatnet_1").replace(num_classes=7), (224, 224)) == "timm/coatnet_1_224"
    assert peer_of(member("coatnet_1"), (256, 256)) is None  # timm's takes one size
    assert peer_of(member("coatnet_7"), (224, 224)) is None
    assert peer_of(member("coatnet_mini_32"), (224, 224)) is None
    assert peer_of(member("timm/resnet18"), (224, 224)) is None


def beside_peer() -> Benchmark:
    def speed(model: str, runtime: str, *seconds: float) -> Speed:
        return Speed(model, runtime, 4, Timing(seconds), 0.5)

    return Benchmark(
        model="$ours_1$",
        peer="timm/theirs",
        image_size=(224, 224),
        multiply_adds=10**9,
        device="cpu",
        threads=2,
        ceilings=Ceilings(float32=1e11, bfloat16=1e12, copy=1e10),
        speeds=(
            speed("$ours_1$", "torch-bfloat16", 1.0, 2.0, 1.0),
            speed("timm/theirs", "torch-float32", 6.0, 6.0, 6.0),
            speed("timm/theirs", "torch-bfloat16", 3.0, 6.0, 3.0),
        ),
        memory={"torch-bfloat16": 10**9},
        stages=(StageTime("S0", 0.25, 1e11),),
        stage_runtime="torch-bfloat16",
    )


def test_the_peer_is_taken_at_its_best():
    result = beside_peer()
    assert [result.times_peer(one) for one in result.speeds] == [3, None, None]
    cells = result.as_dict()["speeds"]
    assert [cell["times_peer"] for cell in cells] == [3, None, None]
    assert cells[0]["images_per_second"] == 4


def test_chart(tmp_path):
    draw(beside_peer(), tmp_path / "new" / "speed.png")
    assert (tmp_path / "new" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_runtimes_are_known_names():
    assert choose_runtimes(["torch-bfloat16", "torch-bfloat16"]) == ("torch-bfloat16",)
    with pytest.raises(ConfigError, match="no runtime 'tensorrt'") as error:
        choose_runtimes(["tensorrt"])
    assert "torch-float32" in error.value.hint


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if not name.startswith("compiled")])
def test_each_runtime_runs_this_network(tiny_config, runtime):
    if runtime == "openvino-bfloat16" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    model, images = create_model(tiny_config).eval(), np.random.default_rng(0).normal(size=(2, 3, 48, 64))
    exact = create_engine("torch-float32", model, "cpu", (48, 64)).logits(images.astype(np.float32))
    found = create_engine(runtime, model, "cpu", (48, 64)).logits(images.astype(np.float32))
    assert np.abs(found - exact).max() < (1e-4 if RUNTIMES[runtime] == "float32" else 0.05) * np.abs(exact).max()


def test_compiling_without_a_compiler_is_a_missing_part(tiny_config, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingPartError, match="there is no no-such-compiler"):
        create_engine("compiled-float32", create_model(tiny_config), "cpu", (64, 64))
