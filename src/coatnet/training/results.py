"""What a run leaves: the classifier, its final scores, the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from coatnet.classifier import Classifier
from coatnet.data.images import decode
from coatnet.data.sources import Source, Splits
from coatnet.evaluation.evaluate import evaluate
from coatnet.evaluation.metrics import Evaluation
from coatnet.model.size import model_size
from coatnet.ranks import is_main
from coatnet.runtime.engines import TorchEngine
from coatnet.training.config import TrainConfig
from coatnet.training.disk import room_for
from coatnet.training.folder import RunFolder
from coatnet.training.log import read_metrics
from coatnet.training.report import ReportText, Sample, mosaic_positions, write_report


def save_classifier(model: nn.Module, device: str, config: TrainConfig, folder: RunFolder) -> Classifier:
    """Write the classifier folder; every rank gets the classifier."""
    classifier = Classifier(TorchEngine(model, device), config.preprocess, config.class_names)
    if is_main():
        with room_for(f"the classifier {folder.classifier}", folder.path):
            classifier.save(folder.classifier)
    return classifier


def take_score(
    classifier: Classifier, splits: Splits, folder: RunFolder, should_stop: Callable[[], bool]
) -> Evaluation:
    """The final score, taken once: on test, else on validation. It is what `coatnet evaluate` gives."""
    source, split = splits.final
    evaluation = evaluate(classifier, source, split=split, should_stop=should_stop)
    if is_main():
        with room_for(f"the scores {folder.evaluation}", folder.path):
            folder.evaluation.write_text(json.dumps(evaluation.as_dict(), indent=1))
    return evaluation


def report(
    config: TrainConfig,
    folder: RunFolder,
    splits: Splits,
    evaluation: Evaluation,
    took: tuple[float, Sequence[tuple[str, str]]],
) -> None:
    """Write plots/ and report.html.

    Args:
        config: of the run.
        folder: of the run.
        splits: the data.
        evaluation: the final scores.
        took: seconds of training, and name and code of the training images that could not be read.
    """
    seconds, unreadable = took
    source, _ = splits.final
    height, width = config.preprocess.image_size
    size = model_size(config.model, height, width)
    environment = folder.read_environment()
    text = ReportText(
        title=f"{Path(config.data.path).stem}: {len(config.class_names)} classes",
        facts={
            "model": f"{config.model.layout}, {size.parameters / 1e6:.1f} M parameters, "
            f"{size.multiply_adds / 1e6:,.0f} M multiply-adds at {height} x {width} px",
            "data": f"{len(splits.train)} images to train on, {len(splits.val)} to validate, {len(source)} scored here",
            "length": f"{config.run.steps} steps of {config.run.batch_size} images",
            "duration": f"{seconds / 60:.1f} minutes",
            "unreadable": ", ".join(f"{name} ({code})" for name, code in unreadable) or "no training image",
        },
        choices=config.choices,
        commands=(
            f"coatnet predict {folder.path} photo.jpg",
            f"coatnet evaluate {folder.path} {config.data.path}",
        ),
        environment={name: str(value) for name, value in environment.items()},
    )
    with room_for(f"the report {folder.report}", folder.path):
        write_report(folder.path, read_metrics(folder.metrics), evaluation, _samples(source, evaluation), text)


def _samples(source: Source, evaluation: Evaluation) -> list[Sample]:
    """The images that the report shows, decoded again."""
    index = {name: position for position, name in enumerate(source.names)}
    positions = sorted({position for shown in mosaic_positions(evaluation).values() for position in shown})
    return [
        Sample(position=position, image=decode(source.read(index[evaluation.answers.names[position]])))
        for position in positions
    ]
