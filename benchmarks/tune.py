"""What `coatnet tune` is worth: the recipe's settings against those it ends with, with paired seeds that it never had.

python benchmarks/tune.py OUT DATA [--train-fraction 0.5] [--val-fraction 0.4] [--trials 20] [--seeds 5]

At 32 px, with a network of a hundred thousand parameters in the place of the recipe's, for a slow machine; all else is
what `coatnet train DATA` does, its epochs too. Given again, the same command goes on.
"""

import argparse
import json
from pathlib import Path

import coatnet
from coatnet.data.sources import DataConfig
from coatnet.model.config import CoAtNetConfig
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics
from coatnet.training.search_space import apply_settings, recipe_settings
from coatnet.training.tune import Tuning, tune

IMAGE_SIZE = 32
FIRST_SEED = 101
"""Far from those of the search, 0 to 4."""
SMALL = CoAtNetConfig.from_layout(
    "CCTT",
    (2, 1, 1, 1, 1),
    (16, 16, 32, 64, 64),
    strides=(2, 2, 2, 2, 1),
    image_size=IMAGE_SIZE,
    num_classes=10,
    initialisation="fan",
    batch_norm_momentum=0.1,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data")
    parser.add_argument("--train-fraction", type=float, default=0.5)
    parser.add_argument("--val-fraction", type=float, default=0.4)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    data = DataConfig(
        path=arguments.data,
        train_fraction=arguments.train_fraction,
        val_fraction=arguments.val_fraction,
        workers=0,
    )
    config = coatnet.recipes.small_data(data, image_size=IMAGE_SIZE)
    network = SMALL.replace(num_classes=config.model.num_classes, stochastic_depth=config.model.stochastic_depth)
    config = lay_over(config.replace(model=network), run={"device": "cpu"})
    found = tune(config, arguments.out / "search", (arguments.data,), trials=arguments.trials)
    print(json.dumps({"epochs": config.run.epochs, **found.as_dict()}), flush=True)
    compare(config, found, arguments.out, arguments.seeds)


def compare(config: TrainConfig, found: Tuning, out: Path, seeds: int) -> None:
    """Whole runs of both, with validation and test; nothing if the search ended with the recipe."""
    settings = {"recipe": recipe_settings(config)}
    if found.best:
        settings["tuned"] = next(trial.settings for trial in found.trials if trial.number == found.best)
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for name, one in settings.items():
            folder = RunFolder(out / f"{name}-{seed}")
            if not folder.evaluation.exists():
                run = lay_over(apply_settings(config, one), run={"seed": seed})
                coatnet.train(run, folder.path, overwrite=True)
            val = [line["top1"] for line in read_metrics(folder.metrics) if line.get("evaluation") == "val"]
            test = json.loads(folder.evaluation.read_text())["top1"]
            print(json.dumps({"seed": seed, "settings": name, "val": val[-1], "test": test}), flush=True)


if __name__ == "__main__":
    main()
