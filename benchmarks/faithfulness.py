"""Do heat maps show what a classifier uses? Deletion and insertion against a random order, paired by image.

python benchmarks/faithfulness.py CLASSIFIER DATA [--images 200] [--page PAGE.html]

CLASSIFIER is a run folder or a classifier folder; of DATA the test images are taken, else all, evenly spread.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import coatnet
from coatnet.classifier import Classifier
from coatnet.data.images import decode
from coatnet.data.sources import DataConfig, open_data
from coatnet.explanation.explain import Explanation, explain
from coatnet.explanation.faithfulness import measure
from coatnet.explanation.faithfulness_page import COLUMNS, faithfulness_rows, faithfulness_section
from coatnet.pages.page import write_page

METHODS = ("grad_cam", "integrated_gradients", "rollout")


def explanations(classifier: Classifier, data: str, count: int) -> Iterator[Explanation]:
    source = open_data(DataConfig(path=data)).final[0]
    for index in np.linspace(0, len(source) - 1, count).astype(int):
        yield explain(classifier, decode(source.read(int(index))), methods=METHODS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    classifier = coatnet.Classifier.load(arguments.classifier)
    measured = measure(classifier, explanations(classifier, arguments.data, arguments.images))
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in faithfulness_rows(measured):
        print("| " + " | ".join(row) + " |")
    if arguments.page:
        with TemporaryDirectory() as folder:
            section = faithfulness_section(measured, Path(folder))
            write_page(arguments.page, f"Faithfulness on {arguments.data}", [section])


if __name__ == "__main__":
    main()
