import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from coatnet.classifier import Classifier
from coatnet.classifier.doctor import Examination, Sample, examine
from coatnet.cli import main
from coatnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from coatnet.errors import ModelFileError
from coatnet.model.family import create_model
from coatnet.model.weights import save_weights

COLOURS = {"blue": (40, 60, 200), "green": (30, 180, 60), "red": (200, 50, 40)}
OURS = Preprocess(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def colour_sample(seed: int, count: int = 60) -> Sample:
    """Noisy squares of three colours."""
    generator = np.random.default_rng(seed)
    labels = [list(COLOURS)[index % 3] for index in range(count)]
    noisy = [np.array(COLOURS[label]) + generator.normal(0, 40, (32, 32, 3)) for label in labels]
    return Sample([image.clip(0, 255).astype(np.uint8) for image in noisy], labels)


@pytest.fixture(scope="module")
def trained(tiny_config):
    """A network that knows the colours, normalised with 0.5 and 0.25."""
    torch.manual_seed(0)
    model = create_model(tiny_config.replace(initialisation="fan", batch_norm_momentum=0.2)).train()
    sample = colour_sample(0)
    pixels = torch.from_numpy(OURS.normalized(np.stack(sample.images)))
    labels = torch.tensor([list(COLOURS).index(label) for label in sample.labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    return model


def saved(model, folder: Path, preprocess: Preprocess = OURS, names=tuple(COLOURS)) -> Path:
    Classifier(model, preprocess, names).save(folder)
    return folder


def wrong(examination: Examination) -> str:
    return "; ".join(f"{finding.text} ({finding.hint})" for finding in examination.findings if finding.level == "wrong")


def test_a_whole_classifier_is_healthy(trained, tmp_path):
    examination = examine(saved(trained, tmp_path / "whole"), colour_sample(1))
    assert examination.healthy, wrong(examination)
    assert any("60 of 60 images are named right" in finding.text for finding in examination.findings)


@pytest.mark.parametrize("constants", [(IMAGENET_MEAN, IMAGENET_STD), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))])
def test_wrong_constants_are_seen_in_the_statistics(trained, tmp_path, constants):
    mean, std = constants
    folder = saved(trained, tmp_path / "mismatched", OURS.replace(mean=mean, std=std))
    examination = examine(folder, colour_sample(1))
    if constants[0] == (0.0, 0.0, 0.0):
        assert "normalised with the wrong constants" in wrong(examination)
        assert "with mean 0.5 and deviation 0.25 it would be" in wrong(examination)
    else:  # 0.485 and 0.229 are too near 0.5 and 0.25 to hurt, and to tell
        assert examination.healthy


def test_an_edited_preprocess_is_told_from_what_it_was(trained, tmp_path):
    folder = saved(trained, tmp_path / "edited")
    record = json.loads((folder / "preprocess.json").read_text())
    (folder / "preprocess.json").write_text(json.dumps({**record, "mean": IMAGENET_MEAN, "std": (0.5, 0.5, 0.5)}))
    assert "saved with mean 0.5 and deviation 0.25" in wrong(examine(folder))
    (folder / "preprocess.json").write_text(json.dumps({**record, "interpolation": "bilinear"}))
    assert "saved with interpolation bicubic" in wrong(examine(folder))


def test_permuted_names_are_seen(trained, tmp_path):
    folder = saved(trained, tmp_path / "permuted", names=("green", "blue", "red"))
    told = wrong(examine(folder, colour_sample(1)))
    assert "permuted: 20 of 60 images are named right, 60 with other names" in told
    assert "blue is called green" in told


def test_an_untrained_network_is_seen(tiny_classifier, trained, tmp_path):
    told = wrong(examine(tiny_classifier))
    assert "running statistics are as at the start" in told
    assert "the layer of the classes was never trained" in told
    model = create_model(trained.network_config)
    model.load_state_dict(trained.state_dict())
    torch.nn.init.zeros_(model.head.classes.bias)
    told = wrong(examine(saved(model, tmp_path / "new_head")))
    assert "classes was never trained" in told
    assert "running statistics" not in told


def test_unknown_classes_and_chance_are_told(trained, tmp_path):
    folder = saved(trained, tmp_path / "whole")
    sample = colour_sample(1)
    assert "1 classes of the data are unknown" in wrong(examine(folder, Sample(sample.images, ["violet"] * 60)))
    shuffled = Sample(sample.images, list(np.random.default_rng(0).permutation(sample.labels)))
    assert "hardly more than by chance" in wrong(examine(folder, shuffled))


def test_another_input_size_is_noted(trained, tmp_path):
    folder = saved(trained, tmp_path / "larger", OURS.replace(image_size=(48, 64)))
    notes = [finding.text for finding in examine(folder).findings if finding.level == "note"]
    assert "images are fed at 48 x 64 px, with relative tables made for 32 px: they are resized on the way" in notes


def test_files_of_weights_are_told_apart(trained, tmp_path):
    ours = tmp_path / "ours.safetensors"
    save_weights(create_model("coatnet_mini_32", num_classes=7), ours)
    assert examine(ours).facts["network"] == "coatnet_mini_32 under coatnet's names"
    theirs = tmp_path / "theirs.safetensors"
    save_weights(timm.create_model("coatnet_0_224", num_classes=12), theirs)
    examination = examine(theirs)
    assert examination.facts["network"] == "coatnet_0 under timm's names"
    assert examination.facts["classes"] == "12"
    other = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.full((2, 2), torch.nan)}, other)
    assert "1 tensors are not finite: layer.weight" in wrong(examine(other))
    with pytest.raises(ModelFileError, match="does not exist"):
        examine(tmp_path / "nothing")


def test_the_command_exits_4_and_says_why(trained, tmp_path, capsys):
    folder = saved(trained, tmp_path / "whole")
    assert main(["doctor", str(folder)]) == 0
    assert "belong together" in capsys.readouterr().out
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    assert main(["doctor", str(damaged), "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert not told["healthy"]
    assert "its sha256 is not the stored one" in told["findings"][0]["text"]
