"""What the two parts of attention are worth to a trained classifier: accuracy without the one or the other.

python benchmarks/attention_parts.py CLASSIFIER DATA [--images 1000]

Static: the tables are set to 0. Adaptive: the queries are, so that only the tables tell keys apart. Nothing is
trained anew.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import coatnet
from coatnet.data.images import decode
from coatnet.data.sources import DataConfig, open_data
from coatnet.explanation.explain import explain
from coatnet.explanation.record import attention_layers


def without(model: torch.nn.Module, part: str) -> None:
    with torch.no_grad():
        for _, layer in attention_layers(model):
            if part == "static":
                layer.relative_bias.table.zero_()
            elif part == "adaptive":
                width = layer.query_key_value.weight.shape[0] // 3
                layer.query_key_value.weight[:width].zero_()
                layer.query_key_value.bias[:width].zero_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    source = open_data(DataConfig(path=arguments.data)).final[0]
    chosen = np.unique(np.linspace(0, len(source) - 1, arguments.images).astype(int))
    images = [decode(source.read(int(index))) for index in chosen]
    labels = [source.class_names[source.labels[int(index)]] for index in chosen]
    for part in ("none", "static", "adaptive"):
        classifier = coatnet.Classifier.load(arguments.classifier, device="cpu")
        if part == "none":
            blocks = explain(classifier, images[0], methods=()).attention
            for block in blocks:
                spread = [
                    np.std(block.parts((0, 0)).static, axis=(1, 2)),
                    np.std(block.parts((0, 0)).adaptive, axis=(1, 2)),
                ]
                told = " ".join(f"{value:.2f}" for value in np.mean(spread, axis=1))
                print(block.name, "deviation of static and adaptive over the keys:", told)
        without(classifier.engine.model, part)
        right = [answer.label == label for answer, label in zip(classifier.predict(images), labels, strict=True)]
        print(f"without {part}: {np.mean(right):.3f} of {len(right)}")


if __name__ == "__main__":
    main()
