"""Several processes take the steps of one, and score every image once."""

import copy
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm
from torch import nn

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.loader import TrainingStream
from coatnet.data.preprocess import Preprocess
from coatnet.data.samples import BytesSource
from coatnet.data.sources import DataConfig, open_data
from coatnet.errors import ConfigError
from coatnet.model.family import create_model
from coatnet.training.config import RunConfig, lay_over
from coatnet.training.loop import Run, resume, train
from coatnet.training.parallel import num_parts
from coatnet.training.recipes import small_data
from training.test_faults import each, stored
from training.test_loop import TINY


def config(**run):
    """Everything that draws at random, in float32, whose rounding is small."""
    pace = {"steps": 6, "batch_size": 16, "evaluate_every": 6, "save_every": 3, "log_every": 1, "keep_checkpoints": 9}
    return lay_over(
        small_data("digits").replace(model=TINY.replace(stochastic_depth=0.3)),
        augmentation={"mixup": 0.4, "cutmix": 1.0, "erasing": 0.3},
        run={**pace, "device": "cpu", "precision": "float32", **run},
        data={"workers": 0},
        optimizer={"learning_rate": 1e-3},
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "classifier" / "model.safetensors")


def assert_near(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    codes, said = each(["two", "train", str(stored(config(), folder / "config.json")), str(folder / "run")])
    assert codes == [0], said
    return folder / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Run:
    return train(config(accumulate=2), tmp_path_factory.mktemp("alone") / "run")


def test_two_processes_equal_one_that_accumulates(two_processes, alone, tmp_path):
    assert_near(weights(two_processes), weights(alone.folder))
    # One that does not cut the batch mixes other pairs and norms other images: the comparison can tell.
    whole = train(config(), tmp_path / "whole")
    differences = [(weights(whole.folder)[name] - value).abs().max() for name, value in weights(two_processes).items()]
    assert max(differences) > 1e-3


def test_every_image_is_scored_once(two_processes, alone):
    found = json.loads((two_processes / "evaluation.json").read_text())
    assert found["images"] == alone.evaluation.num_images == 359
    assert found["loss"] == pytest.approx(alone.evaluation.loss, rel=1e-3)
    assert sum(one["support"] for one in found["classes"]) == 359


def test_losses_are_the_mean_of_all_processes(two_processes, alone):
    def losses(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "evaluation" not in line]

    assert losses(two_processes) == pytest.approx(losses(alone.folder), rel=1e-4)


def test_a_run_goes_on_in_another_number_of_processes(two_processes, tmp_path):
    one = tmp_path / "one"
    subprocess.run(["cp", "-r", str(two_processes), str(one)], check=True)
    subprocess.run(["rm", "-r", str(one / "checkpoints" / "step-000000006"), str(one / "classifier")], check=True)
    with_parts = json.loads((one / "config.json").read_text())
    with_parts["run"]["accumulate"] = 2  # what two processes did in one step, one does in two micro-batches
    (one / "config.json").write_text(json.dumps(with_parts))
    resume(one)
    assert_near(weights(two_processes), weights(one))


def test_the_shares_of_processes_make_the_batch():
    source = open_data(DataConfig(path="digits")).train

    def stream(**parts):
        settings = {"seed": 3, "batch_size": 12, "workers": 0, **parts}
        return TrainingStream(source, Preprocess(image_size=32), AugmentationConfig(rotation=20.0), **settings)

    whole = [batch.images for batch in stream().batches(2, 5)]
    shares = [list(stream(parts=4, own=own).batches(2, 5)) for own in ((0, 1), (2, 3))]
    for step in range(3):
        parts = [batch.images for share in shares for batch in share if batch.step == step + 2]
        assert np.array_equal(np.concatenate(parts), whole[step])
    assert sorted(batch.place for share in shares for batch in share) == list(range(8, 20))


def test_every_sample_once_an_epoch_while_the_number_of_processes_changes():
    files = [np.full((8, 8, 3), index, np.uint8) for index in range(60)]
    source = BytesSource(
        ["a", "b"], np.arange(60) % 2, [f"{index}" for index in range(60)], [png(one) for one in files]
    )
    drawn = []
    for first, last, count in ((0, 3, 2), (3, 4, 1), (4, 10, 2)):  # 10 steps of 12 are two epochs of 60
        for rank in range(count):
            settings = {"seed": 3, "batch_size": 12, "workers": 0, "parts": count, "own": (rank,)}
            stream = TrainingStream(source, Preprocess(image_size=32), AugmentationConfig(), **settings)
            drawn += [
                (batch.step // 5, int(image[16, 16, 0]))
                for batch in stream.batches(first, last)
                for image in batch.images
            ]
    assert sorted(drawn) == [(epoch, index) for epoch in range(2) for index in range(60)]


def png(image_HWC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "PNG")
    return file.getvalue()


def test_synchronised_batch_norms_are_batch_norms_where_there_is_one_process():
    torch.manual_seed(0)
    model = create_model(TINY.replace(stochastic_depth=0.0)).train()
    other = copy.deepcopy(model)
    other = convert_sync_batchnorm(other)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in other.modules())
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(other(images), model(images), rtol=1e-5, atol=1e-5)
    assert_near(other.state_dict(), model.state_dict())  # running statistics, and none more or less


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="batch_size 10 is no multiple of 3: 1 processes times accumulate 3"):
        num_parts(RunConfig(steps=1, batch_size=10, accumulate=3))
