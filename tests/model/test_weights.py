from pathlib import Path

import pytest
import torch

from coatnet.errors import ModelFileError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.weights import load_weights, save_weights

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32), image_size=32, num_classes=4)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved, loaded = CoAtNet(CONFIG), CoAtNet(CONFIG)
    saved(torch.randn(2, 3, 32, 32))  # moves the running statistics
    save_weights(saved, tmp_path / "model.safetensors")
    load_weights(loaded, tmp_path / "model.safetensors")
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_mismatch_lists_both_sides_and_loads_nothing(tmp_path: Path) -> None:
    save_weights(CoAtNet(CONFIG.replace(hidden_width=0, num_classes=6)), tmp_path / "model.safetensors")
    model = CoAtNet(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelFileError) as caught:
        load_weights(model, tmp_path / "model.safetensors")
    message = str(caught.value)
    assert "in the model only (2): head.hidden.0.bias, head.hidden.0.weight" in message
    assert "of another shape (2): head.classes.bias (6,) for (4,)" in message
    assert "\n" not in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("length", [0, 7, 100, 5000])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(CoAtNet(CONFIG), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelFileError, match="is not a whole safetensors file"):
        load_weights(CoAtNet(CONFIG), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere.safetensors does not exist"):
        load_weights(CoAtNet(CONFIG), tmp_path / "nowhere.safetensors")
