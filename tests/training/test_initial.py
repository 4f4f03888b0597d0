"""Starting from what another run learned: from where, with which head, and never from something else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.maxxvit import MaxxVit, model_cfgs

from coatnet.classifier import Classifier
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig
from coatnet.errors import ConfigError, ModelFileError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.model.weights import save_weights
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.initial import find_initial, initial_state
from coatnet.training.recipes import finetune, small_data

DIGITS = tuple(str(digit) for digit in range(10))
PREPROCESS = Preprocess(image_size=40, interpolation="lanczos", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def source(folder: Path, class_names: tuple[str, ...] = DIGITS) -> Path:
    """An untrained classifier of digits."""
    torch.manual_seed(1)
    config = CoAtNetConfig.from_layout(
        "CCTT",
        (2, 1, 1, 1, 1),
        (8, 8, 16, 32, 32),
        strides=(2, 2, 2, 2, 1),
        image_size=32,
        num_classes=len(class_names),
        batch_norm_momentum=0.1,
        stochastic_depth=0.1,
    )
    Classifier(create_model(config), PREPROCESS, class_names).save(folder)
    return folder


def tuned(folder: Path, **choices: object) -> TrainConfig:
    return finetune("digits", folder, **choices)  # type: ignore[arg-type]


def logits(state: dict[str, torch.Tensor], config: CoAtNetConfig) -> torch.Tensor:
    model = create_model(config)
    model.load_state_dict(state)
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval()(torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (DIGITS, "kept, the classes are the same"),
        (DIGITS[::-1], "permuted, the classes are the same in another order"),
        ((*DIGITS, "ten", "eleven"), "cut, to 10 of its classes"),
        (("a", *DIGITS[1:]), "new, the classes are others"),
    ],
)
def test_the_head_follows_the_names(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    config = tuned(source(tmp_path / "source", names))
    assert config.initial is not None
    assert config.initial.head == kind
    assert f"head: {kind}" in config.choices
    assert config.model.num_classes == 10
    found = logits(initial_state(config).tensors, config.model)
    old = Classifier.load(tmp_path / "source", device="cpu").engine.model  # type: ignore[attr-defined]
    expected = logits(old.state_dict(), old.network_config)
    if kind.startswith("new"):
        assert not torch.allclose(found, expected, atol=1e-3)
        config = config.replace(run=config.run.replace(seed=1))
        assert not torch.allclose(logits(initial_state(config).tensors, config.model), found, atol=1e-3)
    else:
        torch.testing.assert_close(found, expected[:, [names.index(name) for name in DIGITS]], rtol=0, atol=1e-6)


def test_a_new_head_is_a_function_of_the_seed(tmp_path: Path) -> None:
    config = tuned(source(tmp_path / "source", ("a", "b")))
    first, second = initial_state(config).tensors, initial_state(config).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_preprocessing_and_network_come_from_the_source(tmp_path: Path) -> None:
    config = tuned(source(tmp_path / "source"))
    assert config.preprocess == PREPROCESS
    assert config.model.image_size == 32
    assert config.model.stochastic_depth == 0.1
    larger = tuned(tmp_path / "source", image_size=(48, 64))
    assert larger.preprocess == PREPROCESS.replace(image_size=(48, 64))
    assert larger.model == config.model  # the tables keep their size
    said = "image size: 48 x 64 px, as asked; the relative tables, made for 32 px, are resized as it runs"
    assert said in larger.choices


def test_a_centre_crop_becomes_the_whole_image(tmp_path: Path, image_folder: Path) -> None:
    source(tmp_path / "source")
    cropping = Classifier.load(tmp_path / "source", device="cpu")
    cropping.preprocess = PREPROCESS.replace(crop_fraction=0.9)
    cropping.save(tmp_path / "cropping")
    preprocess = tuned(tmp_path / "cropping").preprocess
    assert (preprocess.resize, preprocess.crop_fraction) == ("crop", 1.0)
    from PIL import Image

    for path in image_folder.rglob("*.png"):
        Image.fromarray(np.array(Image.open(path).resize((80, 40)))).save(path)
    assert finetune(str(image_folder), tmp_path / "cropping").preprocess.resize == "stretch"


def test_a_run_folder_leads_to_its_classifier(tmp_path: Path) -> None:
    folder = source(tmp_path / "run" / "classifier")
    assert find_initial(tmp_path / "run").source == str(folder)


def test_a_source_that_changed_is_not_taken(tmp_path: Path) -> None:
    config = tuned(source(tmp_path / "source"))
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(ModelFileError, match="is missing, damaged, or has changed"):
        initial_state(config)
    torch.manual_seed(5)
    Classifier(create_model(config.model), PREPROCESS, DIGITS).save(tmp_path / "source")
    with pytest.raises(ModelFileError, match="is missing, damaged, or has changed"):
        initial_state(config)


def test_a_source_that_is_not_there_is_named_with_its_neighbours(tmp_path: Path) -> None:
    source(tmp_path / "flowers")
    with pytest.raises(ModelFileError, match="flower does not exist") as caught:
        find_initial(tmp_path / "flower")
    assert "did you mean flowers?" in caught.value.hint


def test_another_member_than_the_sources_is_refused(tmp_path: Path) -> None:
    source(tmp_path / "source")
    with pytest.raises(ConfigError, match=r"model is coatnet_0, and .* holds another network"):
        find_initial(tmp_path / "source", "coatnet_0")


# --- weights files ----------------------------------------------------------------------------------------------------


def test_a_weights_file_needs_its_member(tmp_path: Path) -> None:
    save_weights(create_model("coatnet_mini_32", num_classes=7), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"w.safetensors is a weights file") as caught:
        find_initial(tmp_path / "w.safetensors")
    assert "--model" in caught.value.hint
    with pytest.raises(ConfigError, match="there is no model 'coatnet_mini'"):
        find_initial(tmp_path / "w.safetensors", "coatnet_mini")


def test_a_weights_file_gets_a_new_head(tmp_path: Path) -> None:
    model = create_model("coatnet_mini_32", num_classes=7)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    config = tuned(tmp_path / "w.pth", model="coatnet_mini_32")
    assert config.initial is not None
    assert config.initial.head == "new, a weights file does not name its classes"
    assert any("a weights file does not tell it" in choice for choice in config.choices)
    assert config.preprocess.mean == small_data("digits").preprocess.mean
    state = initial_state(config).tensors
    assert torch.equal(state["stem.mix.weight"], model.stem.mix.weight)
    assert state["head.classes.weight"].shape[0] == 10


def test_weights_of_another_member_are_refused_whole(tmp_path: Path) -> None:
    save_weights(create_model("coatnet_mini_32", num_classes=10), tmp_path / "w.safetensors")
    config = tuned(tmp_path / "w.safetensors", model="coatnet_small_32")
    with pytest.raises(ModelFileError, match=r"do not fit the model; in the model only \(\d+\): .*of another shape"):
        initial_state(config)


def test_timms_weights_become_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = MaxxVit(model_cfgs["coatnet_0"], img_size=224, num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "coatnet_0_224.pth")
    config = tuned(tmp_path / "coatnet_0_224.pth", model="coatnet_0")
    assert (config.model.pool, config.model.stride_location, config.model.stem_bias) == ("average", "depthwise", False)
    assert config.preprocess == Preprocess(image_size=224, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    state = initial_state(config).tensors
    ours = create_model(config.model).eval()
    ours.load_state_dict(state)
    theirs.reset_classifier(10)
    with torch.no_grad():
        theirs.head.fc.weight.copy_(ours.head.classes.weight)
        theirs.head.fc.bias.copy_(ours.head.classes.bias)
        images = torch.randn(1, 3, 224, 224)
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-4 * float(expected.std()))


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_many_images_get_the_papers_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatnet.training.finetuning.MANY_IMAGES", 1000)
    config = tuned(source(tmp_path / "source"))
    optimizer, run, augmentation = config.optimizer, config.run, config.augmentation
    assert optimizer.learning_rate == optimizer.final_learning_rate == 5e-5
    assert (optimizer.warmup, optimizer.weight_decay, optimizer.gradient_clip) == (0, 1e-8, 1)
    assert (optimizer.ema, optimizer.layer_decay) == (0.9999, 1)
    assert (run.batch_size, run.epochs, run.patience) == (512, 30, None)
    assert (augmentation.crop_scale, augmentation.label_smoothing, augmentation.mixup) == ((1, 1), 0.1, 0)
    assert "recipe: fine-tuning, the paper's values (Table 10)" in config.choices


@pytest.mark.parametrize(("name", "rate"), [("coatnet_0", 0.2), ("coatnet_1", 0.3)])
def test_the_papers_members_get_their_stochastic_depth(
    tmp_path: Path, name: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatnet.training.finetuning.MANY_IMAGES", 1000)
    save_weights(create_model(name), tmp_path / "w.safetensors")
    assert tuned(tmp_path / "w.safetensors", model=name).model.stochastic_depth == rate


def test_few_images_get_the_short_form(tmp_path: Path) -> None:
    config = tuned(source(tmp_path / "source"))
    assert "recipe: fine-tuning, short form, 1259 images are few" in config.choices
    assert (config.optimizer.learning_rate, config.optimizer.ema, config.run.epochs) == (1e-3, 0.99, 34)
    assert config.run.patience  # 179 images to validate on
    few = finetune(DataConfig(path="digits", val_fraction=0.03), tmp_path / "source")
    assert few.run.patience is None
    assert tuned(tmp_path / "source", batch_size=8).run.batch_size == 8


def test_the_config_is_stored_whole(tmp_path: Path) -> None:
    config = lay_over(tuned(source(tmp_path / "source")), optimizer={"freeze": "body_first"})
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert set(json.loads(config.model_dump_json())["initial"]) == {"source", "sha256", "head"}
