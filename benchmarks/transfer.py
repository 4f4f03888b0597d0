"""Fine-tuning on few images against training from scratch on the same ones.

python benchmarks/transfer.py PRETRAINED DATA OUT [--images 100] [--draws 5] [--image-size 64] [--set run.epochs=20 ...]

PRETRAINED is a run or classifier folder; DATA has a train and a test split. Each draw takes so many training images, as
many of each class, writes them below OUT as class folders, and trains on them: from PRETRAINED, from scratch with the
same network at the same size, and from scratch as `coatnet train` chooses. Scratch gets as many passes as fine-tuning
or those of its own recipe, whichever are more. All are scored on the whole test split; intervals are of the mean over
the draws (Student's t, 95 %). What OUT holds already is not done again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

import coatnet
from coatnet.data.sources import Source, find_parts
from coatnet.training.config import TrainConfig, lay_over


def write_images(source: Source, indices: np.ndarray, folder: Path) -> None:
    for index in indices.tolist():
        path = folder / source.class_names[source.labels[index]] / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read(index))


def draw(parts: dict[str, Source], num_images: int, seed: int, folder: Path) -> Path:
    """Class folders of a few training images, and of all test images."""
    if not folder.exists():
        train, test = parts["train"], parts["test"]
        dice = np.random.default_rng(seed)
        each = num_images // len(train.class_names)
        members = [np.flatnonzero(train.labels == label) for label in range(len(train.class_names))]
        chosen = np.concatenate([dice.choice(found, each, replace=False) for found in members])
        write_images(test, np.arange(len(test)), folder / "test")
        write_images(train, chosen, folder / "train")
    return folder


def ways(data: str, arguments: argparse.Namespace) -> dict[str, TrainConfig]:
    """The runs of a draw, by name."""
    side = arguments.image_size
    tuned = coatnet.recipes.finetune(data, arguments.pretrained, image_size=side and (side, side))
    for setting in arguments.set:
        (part, name), value = setting.split("=")[0].split("."), setting.split("=")[1]
        tuned = lay_over(tuned, **{part: {name: value}})
    scratch = coatnet.recipes.small_data(data, batch_size=tuned.run.batch_size)
    assert tuned.run.epochs is not None
    assert scratch.run.epochs is not None
    scratch = lay_over(scratch, run={"epochs": max(tuned.run.epochs, scratch.run.epochs)})
    same = scratch.replace(model=tuned.model, preprocess=tuned.preprocess)
    return {"fine-tuned": tuned, "scratch, same network": same, "scratch, own choice": scratch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrained", type=Path)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--only", help="only the runs of this name")
    parser.add_argument("--set", nargs="*", default=[], metavar="PART.FIELD=VALUE", help="of fine-tuning")
    arguments = parser.parse_args()
    parts = dict(find_parts(coatnet.DataConfig(path=arguments.data)).parts)
    scores: dict[str, list[float]] = {}
    for seed in range(arguments.draws):
        folder = arguments.out / f"draw-{seed}"
        data = draw(parts, arguments.images, seed, folder / "data")
        for name, config in ways(str(data), arguments).items():
            if arguments.only not in (None, name):
                continue
            run = folder / name.replace(", ", "-").replace(" ", "-")
            if not (run / "evaluation.json").exists():
                coatnet.train(config, run, overwrite=True)
            scores.setdefault(name, []).append(json.loads((run / "evaluation.json").read_text())["top1"])
            print(f"draw {seed}, {name}: {scores[name][-1]:.1%}", flush=True)
    for name, found in scores.items():
        told = f"{name}: {np.mean(found):.1%}"
        if len(found) > 1:
            reach = stats.t.ppf(0.975, len(found) - 1) * stats.sem(found)
            told += f" ± {reach:.1%} over {len(found)} draws"
        print(told)


if __name__ == "__main__":
    main()
