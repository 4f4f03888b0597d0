"""Fine-tuning on few images by default, against a plain training loop at five rates, in the same seconds.

python benchmarks/finetuning.py NETWORK WEIGHTS DATA OUT [--each 20] [--image-size 96] [--draws 3] [--held-out 40]

NETWORK is a name of timm's, WEIGHTS a file of its ImageNet weights, whose tensors are taken by position; DATA has a
train and a test split. Each draw takes so many training images of each class, writes them below OUT as class folders,
and trains on them: with `coatnet.recipes.finetune` as it is, and with AdamW and a cosine schedule on all weights, from
a new random head, at each of RATES, for as many seconds as ours took. Both see the same moves of images and batches of
32. All are scored on the whole test split, so the best rate of the plain loop is chosen on it, which flatters the plain
loop. With --held-out, scores are on so many other training images of each class, and a rate may be chosen by them.
What OUT holds already is not done again.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import datasets, transforms
from transfer import write_images

import coatnet
from coatnet.data.sources import Source, find_parts
from coatnet.training.config import lay_over

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
BATCH = 32
MEAN = (0.5, 0.5, 0.5)
"""Mean and deviation of the EfficientNet-Lite weights."""


class Job(NamedTuple):
    """What both train."""

    network: str
    source: Path
    data: Path
    side: int
    seed: int


def hub_folder(network: str, weights: Path, folder: Path) -> Path:
    """The weights as timm keeps them on the hub: config.json and model.safetensors."""
    if not folder.exists():
        names = timm.create_model(network).state_dict()
        tensors = torch.load(weights, map_location="cpu", weights_only=True).values()
        state = {
            name: tensor.reshape(names[name].shape).contiguous() for name, tensor in zip(names, tensors, strict=True)
        }
        folder.mkdir(parents=True)
        save_file(state, folder / "model.safetensors")
        size = timm.create_model(network).default_cfg["input_size"]
        record = {"input_size": size, "mean": MEAN, "std": MEAN, "interpolation": "bicubic", "crop_pct": 0.875}
        told = {"architecture": network, "num_classes": 1000, "pretrained_cfg": record}
        (folder / "config.json").write_text(json.dumps(told))
    return folder


def draw(parts: dict[str, Source], each: int, held_out: int | None, seed: int, folder: Path) -> Path:
    """Class folders of a few training images, and of what is scored."""
    if not folder.exists():
        train, dice = parts["train"], np.random.default_rng(seed)
        mixed = [dice.permutation(np.flatnonzero(train.labels == label)) for label in range(len(train.class_names))]
        write_images(train, np.concatenate([one[:each] for one in mixed]), folder / "train")
        if held_out is None:
            write_images(parts["test"], np.arange(len(parts["test"])), folder / "test")
        else:
            write_images(train, np.concatenate([one[each : each + held_out] for one in mixed]), folder / "test")
    return folder


def ours(job: Job, settings: list[str], run: Path) -> tuple[float, float]:
    """Accuracy, and the seconds of the whole command."""
    began = time.perf_counter()
    config = coatnet.recipes.finetune(str(job.data), job.source, image_size=(job.side, job.side))
    for setting in settings:
        (part, name), value = setting.split("=")[0].split("."), setting.split("=")[1]
        config = lay_over(config, **{part: {name: value}})
    coatnet.train(config, run, overwrite=True)
    seconds = time.perf_counter() - began
    return json.loads((run / "evaluation.json").read_text())["top1"], seconds


def plain(job: Job, rate: float, seconds: float) -> tuple[float, int]:
    """Accuracy, and the steps that fitted into the seconds."""
    torch.manual_seed(job.seed)
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, MEAN)]
    moves = [transforms.RandomHorizontalFlip(), transforms.RandomAffine(15, (0.1, 0.1), (0.85, 1.2))]
    resize = transforms.Resize((job.side, job.side))
    train = datasets.ImageFolder(str(job.data / "train"), transforms.Compose([resize, *moves, *end]))
    test = datasets.ImageFolder(str(job.data / "test"), transforms.Compose([resize, *end]))
    model = timm.create_model(job.network)
    model.load_state_dict(load_file(job.source / "model.safetensors"))
    model.reset_classifier(len(train.classes))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    loader = torch.utils.data.DataLoader(train, BATCH, shuffle=True, drop_last=True)
    began, steps, done = time.perf_counter(), 0, 0.0
    while done < 1:
        for images, labels in loader:
            done = (time.perf_counter() - began) / seconds
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, 20 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images.to(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    model.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in torch.utils.data.DataLoader(test, 100):
            right += int((model(images).argmax(1) == labels).sum())
    return right / len(test), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("weights", type=Path)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--held-out", type=int, help="score on so many other training images of each class")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES, help="of the plain loop")
    parser.add_argument("--set", nargs="*", default=[], metavar="PART.FIELD=VALUE", help="of our config")
    arguments = parser.parse_args()
    source = hub_folder(arguments.network, arguments.weights, arguments.out / arguments.network)
    parts = dict(find_parts(coatnet.DataConfig(path=arguments.data)).parts)
    for seed in range(arguments.draws):
        folder = arguments.out / f"draw-{seed}"
        data = draw(parts, arguments.each, arguments.held_out, seed, folder / "data")
        job = Job(arguments.network, source, data, arguments.image_size, seed)
        done_file = folder / f"{arguments.network}.json"
        found: dict[str, list[float]] = json.loads(done_file.read_text()) if done_file.exists() else {}
        name = " ".join(["ours", *arguments.set])
        for key in (name, *map(str, arguments.rates)):
            if key in found:
                continue
            if key == name:
                run = folder / key.replace(" ", "-")
                found[key] = list(ours(job, arguments.set, run))
            else:
                seconds = found[name][1]
                found[key] = list(plain(job, float(key), seconds))
            done_file.write_text(json.dumps(found))
            print(f"draw {seed}, {key}: {found[key][0]:.1%}, {found[key][1]:.0f}", flush=True)


if __name__ == "__main__":
    main()
