"""Images of another size than a classifier was trained at: what the resized relative tables are worth.

python benchmarks/image_size.py RUN [--tune OUT]

RUN is the folder of a finished run; its data must still be there. --tune also fine-tunes for one epoch at 1.5 times the
size, from RUN into OUT.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import coatnet
from coatnet.classifier import Classifier
from coatnet.evaluation.evaluate import evaluate, find_split
from coatnet.model.attention import Grid, RelativeBias, resize_table
from coatnet.runtime.engines import TorchEngine
from coatnet.training.config import lay_over
from coatnet.training.folder import RunFolder


def cropped(table: Tensor, grid: Grid) -> Tensor:
    """Each offset in tokens keeps its value; offsets that training did not see get that of the nearest one."""
    for dimension, side in ((1, grid[0]), (2, grid[1])):
        reach, old = side - 1, (table.shape[dimension] - 1) // 2
        offsets = torch.arange(-reach, reach + 1).clamp(-old, old) + old
        table = table.index_select(dimension, offsets)
    return table


def zero_padded(table: Tensor, grid: Grid) -> Tensor:
    """As `cropped`, but offsets that training did not see get no bias."""
    kept = cropped(table, (min(grid[0], (table.shape[1] + 1) // 2), min(grid[1], (table.shape[2] + 1) // 2)))
    rows, columns = 2 * grid[0] - 1 - kept.shape[1], 2 * grid[1] - 1 - kept.shape[2]
    return functional.pad(kept, (columns // 2, columns // 2, rows // 2, rows // 2))


def random(table: Tensor, grid: Grid) -> Tensor:
    """Numbers of the table's own mean and deviation."""
    shape = (table.shape[0], 2 * grid[0] - 1, 2 * grid[1] - 1)
    return table.mean() + table.std() * torch.randn(shape, generator=torch.Generator().manual_seed(0))


WAYS: dict[str, Callable[[Tensor, Grid], Tensor]] = {
    "resized (what coatnet does)": resize_table,
    "cropped, else the nearest": cropped,
    "cropped, else zero": zero_padded,
    "random": random,
}


def with_tables(folder: Path, size: int, way: Callable[[Tensor, Grid], Tensor]) -> Classifier:
    """The classifier at another size, its tables made for it in some way."""
    classifier = Classifier.load(folder, device="cpu").at_size((size, size))
    assert isinstance(classifier.engine, TorchEngine)
    model = classifier.engine.model
    grids = model.network_config.grids(size, size)[1:]
    with torch.no_grad():
        for stage, grid in zip(model.stages, grids, strict=True):
            for bias in (module for module in stage.modules() if isinstance(module, RelativeBias)):
                bias.table = torch.nn.Parameter(way(bias.table, grid))
    return classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tune", type=Path)
    arguments = parser.parse_args()
    config = RunFolder(arguments.run).read_config()
    source, split = find_split(config.data, record=RunFolder(arguments.run).open_data(config.data).chosen)
    trained = config.model.image_size
    whole = Classifier.load(arguments.run, device="cpu")

    def answers(classifier: Classifier) -> tuple[np.ndarray, str]:
        found = evaluate(classifier, source, split=split)
        low, high = found.top1_interval
        return found.answers.predicted, f"{found.top1:.1%} ({low:.1%} to {high:.1%}), loss {found.loss:.3f}"

    def agree(classifier: Classifier) -> None:
        """Sizes near the one that it is fed at, which are no multiples of 32, against the nearest multiple."""
        fed = classifier.preprocess.image_size[0]
        for size in (fed - 9, fed - 5, fed + 5, fed + 9):
            nearest = max(32, round(size / 32) * 32)
            first, told = answers(classifier.at_size((size, size)))
            second, _ = answers(classifier.at_size((nearest, nearest)))
            print(f"{size} px: {told}; the same top-1 as at {nearest} px on {np.mean(first == second):.1%}", flush=True)

    print(f"{split}, {len(source)} images; trained at {trained} px: {answers(whole)[1]}")
    for size in (round(trained * 1.5), round(trained * 2 / 3)):
        for name, way in WAYS.items():
            print(f"{size} px, {name}: {answers(with_tables(arguments.run, size, way))[1]}", flush=True)
    agree(whole)
    if arguments.tune:
        side = round(trained * 1.5)
        tuned = coatnet.recipes.finetune(config.data, arguments.run, image_size=(side, side))
        run = coatnet.train(lay_over(tuned, run={"epochs": 1}), arguments.tune)
        low, high = run.evaluation.top1_interval
        print(f"{side} px after one epoch of fine-tuning: {run.evaluation.top1:.1%} ({low:.1%} to {high:.1%})")
        agree(Classifier.load(run.classifier, device="cpu"))


if __name__ == "__main__":
    main()
