import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coatnet.errors import ModelFileError
from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.tensors import read_tensors
from coatnet.model.weights import fill, fitting_config, load_weights, save_weights

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32), image_size=32, num_classes=4)
STATE = {"stem.weight": torch.arange(6.0).view(2, 3), "head.bias": torch.ones(2)}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickles_without_code_are_read(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(path), STATE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"state_dict": STATE, "epoch": 7}, STATE),
        ({"model": STATE, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1)}, STATE),
        ({"state_dict": STATE, "state_dict_ema": AVERAGE}, AVERAGE),
        ({"model": {f"module.{name}": tensor for name, tensor in STATE.items()}}, STATE),
        ({f"_orig_mod.{name}": tensor for name, tensor in STATE.items()}, STATE),
    ],
    ids=["state_dict", "model", "state_dict_ema", "module.", "_orig_mod."],
)
def test_usual_wrappings_are_taken_off(
    tmp_path: Path, content: dict[str, object], expected: dict[str, torch.Tensor]
) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert_same(read_tensors(tmp_path / "weights.pth"), expected)


def test_a_prefix_of_some_names_only_stays(tmp_path: Path) -> None:
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    save_file(mixed, tmp_path / "weights.safetensors")
    assert_same(read_tensors(tmp_path / "weights.safetensors"), mixed)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.ones(1)], "it holds a list, not tensors by name"),
        (torch.ones(1), "it holds a Tensor, not tensors by name"),
        ({"a": torch.ones(1), "epoch": 3}, "epoch is not a plain tensor but int"),
        ({"a": torch.ones(1), 3: torch.ones(1)}, "the key 3 is not a name"),
        ({"a": torch.ones(1).expand(2**40)}, "a claims the shape .* more than its bytes"),
        ({"a": torch.eye(3).to_sparse()}, "a is not a plain tensor but one of layout torch.sparse_coo"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is not a plain tensor but a complex one"),
        ({"a": torch.empty(2, device="meta")}, "a is not a plain tensor but a meta one"),
        ({"a": torch.as_strided(torch.ones(1), (2**20, 2**20), (0, 0))}, "a claims the shape .* more than its bytes"),
        ({"a": torch.ones(0)}, "a is empty"),
        ({"state_dict": {"layer": STATE}}, "layer is not a plain tensor but dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ModelFileError, match=rf"weights.pth is refused: {told}"):
        read_tensors(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused(tmp_path: Path, layout: torch.layout) -> None:
    torch.save({"a": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=layout)}, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match=r"a\.pth is refused: "):
        read_tensors(tmp_path / "a.pth")


def test_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"PK")
    with pytest.raises(ModelFileError, match=r"weights.npz is no weights file by its name") as caught:
        read_tensors(tmp_path / "weights.npz")
    assert ".safetensors" in caught.value.hint


# --- what fits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"num_classes": 6}, "num_classes=6 accepts it"),
        ({"image_size": 64}, "the image_size that the file was trained at accepts it"),
        ({"stem_bias": False}, "stem_bias=False accepts it"),
        ({"hidden_width": 0}, "--model names the member"),
    ],
)
def test_a_mismatch_names_the_argument_that_accepts_it(changes: dict[str, object], hint: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        fill(CoAtNet(CONFIG), CoAtNet(CONFIG.replace(**changes)).state_dict(), "a file")
    assert hint in caught.value.hint


def test_at_most_five_names_of_a_side_are_listed() -> None:
    wide = CoAtNetConfig.from_layout("CCCT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32), image_size=32, num_classes=4)
    with pytest.raises(
        ModelFileError, match=r"in the file only \(\d\d\): (\S+, ){5}\.\.\.; in the model only \(\d\d\)"
    ):
        fill(CoAtNet(CONFIG), CoAtNet(wide).state_dict(), "a file")


def test_half_precision_is_accepted_and_other_kinds_are_not() -> None:
    model, other = CoAtNet(CONFIG), CoAtNet(CONFIG)
    fill(model, {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in
                 other.state_dict().items()}, "halves")  # fmt: skip
    assert torch.equal(model.stem.mix.weight, other.stem.mix.weight.half().float())
    whole = {name: tensor.int() for name, tensor in other.state_dict().items()}
    with pytest.raises(ModelFileError, match=r"stem.reduce.weight of a file is torch.int32, expected torch.float32"):
        fill(model, whole, "a file")


def test_numbers_that_are_not_finite_are_refused() -> None:
    state = CoAtNet(CONFIG).state_dict()
    state["head.norm.bias"][0] = float("nan")
    with pytest.raises(ModelFileError, match=r"head.norm.bias of a file holds numbers that are not finite"):
        fill(CoAtNet(CONFIG), state, "a file")


@pytest.mark.parametrize("image_size", [32, 64, 96])
def test_classes_and_image_size_are_read_from_a_file(tmp_path: Path, image_size: int) -> None:
    saved = CoAtNet(CONFIG.replace(num_classes=7, image_size=image_size))
    save_weights(saved, tmp_path / "weights.safetensors")
    config = fitting_config(read_tensors(tmp_path / "weights.safetensors"), CONFIG)
    assert config.num_classes == 7
    load_weights(CoAtNet(config), tmp_path / "weights.safetensors")
