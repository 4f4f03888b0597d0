"""What a step needs is foretold, compared with what is free, and cut until it fits."""

import pytest
import torch

from coatnet.errors import ResourceError
from coatnet.model.config import CoAtNetConfig
from coatnet.runtime.timing import peak_memory
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.forecast import forecast
from coatnet.training.loop import train
from coatnet.training.memory import fit, step_memory
from coatnet.training.recipes import small_data
from training.test_loop import TINY

CPU = torch.device("cpu")


def config(batch_size: int = 64, **run: object) -> TrainConfig:
    whole = small_data("digits", batch_size=batch_size).replace(model=TINY)
    run = {"steps": 4, "device": "cpu", "precision": "float32", **run}
    return lay_over(whole, run=run, data={"workers": 0}, optimizer={"ema": 0.9})


def test_what_a_step_needs_is_what_its_maps_take() -> None:
    """Against the storages that autograd's graph holds after a forward of 32 images, found by walking it."""
    need = step_memory(config(), CPU)
    from coatnet.model.family import create_model

    model = create_model(TINY).train()
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert 5 * parameters <= need.fixed <= 5.2 * parameters  # running statistics, twice, are the rest

    def held(images: int) -> int:
        logits = model(torch.zeros(images, 3, 32, 32).to(memory_format=torch.channels_last))
        storages: dict[int, int] = {}
        seen, waiting = set(), [logits.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            for name in dir(node):
                if name.startswith("_saved_") or name == "saved_tensors":  # of torch's formulas, and of ours
                    value = getattr(node, name)
                    for tensor in value if isinstance(value, (list, tuple)) else [value]:
                        if isinstance(tensor, torch.Tensor):
                            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(storages.values())

    grown = (held(64) - held(32)) / 32
    assert need.per_image / 1.4 == pytest.approx(grown, rel=0.05)


def test_recomputing_needs_less() -> None:
    """Of a deep network less than a half, and no less than the inputs of its blocks, here of three in each stage."""
    deep = CoAtNetConfig.from_layout("CCTT", (2, 3, 3, 3, 3), (8, 8, 16, 32, 32), image_size=32, num_classes=10)
    plain, again = (step_memory(config(recompute=recompute).replace(model=deep), CPU) for recompute in (False, True))
    assert again.fixed == pytest.approx(plain.fixed, rel=0.05)
    inputs = 16 * 16 * 8 + 8 * 8 * 8 * 3 + 4 * 4 * 16 * 3 + 2 * 2 * 32 * 3 + 1 * 1 * 32 * 2
    assert 4 * inputs < again.per_image < 0.5 * plain.per_image


@pytest.mark.parametrize(("images", "parts"), [(64, 1), (63, 2), (32, 2), (16, 4), (3, 32), (2, 32)])
def test_auto_takes_the_largest_micro_batch_that_fits(images: int, parts: int) -> None:
    asked = config(accumulate="auto")
    need = step_memory(asked, CPU)
    found = fit(asked, CPU, need.of(images))
    assert (found.run.batch_size, found.run.accumulate) == (64, parts)
    assert found.choices[-1].startswith(f"memory: micro-batches of {64 // parts} images, {parts} a step")


def test_micro_batches_have_an_even_size() -> None:
    asked = config(batch_size=36, accumulate="auto")
    need = step_memory(asked, CPU)
    assert fit(asked, CPU, need.of(18)).run.accumulate == 2
    with pytest.raises(ResourceError, match="a step of 36 images") as told:
        fit(asked, CPU, need.of(10))
    assert "a batch of 8 would fit" in told.value.hint


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    need = step_memory(config(), CPU)
    assert fit(config(), CPU, need.of(64)) == config()
    with pytest.raises(ResourceError, match=r"a step of 64 images needs about 0\.\d+ GB of memory") as told:
        fit(config(), CPU, need.of(40))
    assert told.value.hint == "a batch of 32 would fit: give it as --batch, or keep the batch by --batch auto"
    assert fit(config(accumulate=2), CPU, need.of(40)).run.accumulate == 2
    with pytest.raises(ResourceError) as told:
        fit(config(accumulate="auto"), CPU, need.fixed)
    assert "smaller --model" in told.value.hint


def test_a_run_that_does_not_fit_writes_nothing(tmp_path) -> None:
    with pytest.raises(ResourceError, match="a step of 1073741824 images"):
        train(config(batch_size=2**30), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_auto_found_is_stored(tmp_path) -> None:
    from coatnet.training.folder import RunFolder

    run = train(config(accumulate="auto"), tmp_path / "run")
    assert RunFolder(run.folder).read_config().run.accumulate == 1


def test_a_forecast_of_steps_and_pace(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = forecast(lay_over(config(), run={"epochs": 3}))
    assert expected.config.run.steps == 59  # 3 passes over 1,259 images
    assert expected.num_images == 1259
    assert expected.evaluations == 3
    assert 0 < expected.pace.step < expected.seconds
    assert 0 < expected.memory <= peak_memory(CPU)
    assert expected.capacity > expected.memory // 4
    assert list(tmp_path.iterdir()) == []
    longer = forecast(lay_over(config(), run={"time": 60.0}))
    assert longer.config.run.time is None
    assert longer.config.run.steps > 59
