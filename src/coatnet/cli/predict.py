"""`coatnet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from coatnet.classifier import Classifier
from coatnet.cli import tables
from coatnet.cli.answers import answers, check_all_read, find_images


def predict(
    classifier: Path,
    /,
    *images: Annotated[Path, Parameter(required=True)],
    top: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    json: Annotated[bool, Parameter(negative=())] = False,
    device: str = "auto",
) -> None:
    """Name what is to be seen in images, a line for each. One that cannot be read is told, and the exit code is then 3.

    Args:
        classifier: a run folder or a classifier folder.
        images: files, or folders that are searched for images.
        top: how many classes to list.
        json: print one object a line instead; probabilities are fractions.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    paths = find_images(images)
    loaded = Classifier.load(classifier, device)
    check_all_read(tables.show_answers(answers(loaded, paths, top), json))
