"""What `coatnet tune` is worth: the recipe's settings against those it finds, with paired seeds.

python benchmarks/tune.py OUT [--trials 8] [--epochs 12] [--seeds 3] [--small]

On digits. --small takes a network of some thousand parameters in the place of the recipe's, for a slow machine.
"""

import argparse
import json
from pathlib import Path

import coatnet
from coatnet.model.config import CoAtNetConfig
from coatnet.training.config import lay_over
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics
from coatnet.training.tune import apply_settings, tune

SMALL = CoAtNetConfig.from_layout(
    "CCTT",
    (2, 1, 1, 1, 1),
    (16, 16, 32, 64, 64),
    strides=(2, 2, 2, 2, 1),
    image_size=32,
    num_classes=10,
    initialisation="fan",
    batch_norm_momentum=0.1,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    config = lay_over(coatnet.recipes.small_data("digits"), run={"epochs": arguments.epochs, "device": "cpu"})
    if arguments.small:
        config = config.replace(model=SMALL)
    found = tune(config, arguments.out / "search", ("digits",), trials=arguments.trials)
    print(json.dumps(found.as_dict()), flush=True)
    for seed in range(1, 1 + arguments.seeds):
        for name, one in {"recipe": config, "tuned": apply_settings(config, found.best.settings)}.items():
            run = coatnet.train(lay_over(one, run={"seed": seed}), arguments.out / f"{name}-{seed}")
            lines = [line for line in read_metrics(RunFolder(run.folder).metrics) if "evaluation" in line]
            print(json.dumps({"seed": seed, "settings": name, "val": lines[-1]["top1"], "test": run.evaluation.top1}))


if __name__ == "__main__":
    main()
