"""Training batches ready for the network, ours against torchvision's ImageFolder and torch's DataLoader.

python benchmarks/input_speed.py FOLDER [--sizes 128 224] [--seconds 20] [--rounds 3]

FOLDER holds class folders of images. Both give batches of 64 normalised float32 images with as many workers as there
are cores: a random crop of 8 % of the area or more, a flip, mean and deviation. Both are asked for batches in turn,
`--rounds` times, each for so many seconds; printed are medians and their ratio. Ours is measured without memory for
decoded images, as in data that do not fit, and with it, as in data that do; torchvision decodes each time.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator

import torch
from torchvision import datasets, transforms

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.loader import TrainingStream, default_threads
from coatnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from coatnet.data.sources import DataConfig, open_data
from coatnet.training.machine import keep_freed_memory
from coatnet.training.trainer import Normaliser

BATCH = 64


def ours(folder: str, size: int, memory: int | None) -> Iterator[torch.Tensor]:
    splits = open_data(DataConfig(path=folder))
    preprocess = Preprocess(image_size=(size, size), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    augmentation = AugmentationConfig(horizontal_flip=True, crop_scale=(0.08, 1.0))
    stream = TrainingStream(
        splits.train, preprocess, augmentation, seed=0, batch_size=BATCH, workers=default_threads(), memory=memory
    )
    normalise = Normaliser(preprocess, torch.device("cpu"))
    for batch in stream.batches(0, 1_000_000):
        yield normalise(batch.images)


def theirs(folder: str, size: int) -> Iterator[torch.Tensor]:
    steps = [
        transforms.RandomResizedCrop(size),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    data = datasets.ImageFolder(folder, transforms.Compose(steps))
    while True:
        loader = torch.utils.data.DataLoader(
            data, BATCH, shuffle=True, num_workers=default_threads(), drop_last=True, persistent_workers=False
        )
        yield from (images for images, _ in loader)


def rate(batches: Iterator[torch.Tensor], seconds: float) -> float:
    """Images per second, after the first batches, which start the workers."""
    for _ in range(3):
        next(batches)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += len(next(batches))
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()  # as a run does; for both
    print("| size | torchvision, images/s | ours, decoded each time | ratio | ours, kept in memory | ratio |")
    print("|---|---|---|---|---|---|")
    for size in arguments.sizes:
        ways = {
            "theirs": lambda size=size: theirs(arguments.folder, size),
            "first": lambda size=size: ours(arguments.folder, size, 0),
            "later": lambda size=size: ours(arguments.folder, size, None),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, make in ways.items():
                batches = make()
                rates[name].append(rate(batches, arguments.seconds))
                batches.close()
        their, first, later = (statistics.median(found) for found in rates.values())
        print(f"| {size} px | {their:,.0f} | {first:,.0f} | {first / their:.2f} | {later:,.0f} | {later / their:.2f} |")


if __name__ == "__main__":
    main()
