"""`coatnet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from coatnet.classifier import Classifier
from coatnet.cli import tables
from coatnet.cli.answers import answers, check_all_read, find_images
from coatnet.cli.flags import parse_size


def predict(
    classifier: Path,
    /,
    *images: Annotated[Path, Parameter(required=True)],
    top: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    json: Annotated[bool, Parameter(negative=())] = False,
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    device: str = "auto",
) -> None:
    """Name what is to be seen in images, a line for each. One that cannot be read is told, and the exit code is then 3.

    Args:
        classifier: a run folder or a classifier folder.
        images: files, or folders that are searched for images.
        top: how many classes to list.
        json: print one object a line instead; probabilities are fractions.
        image_size: feed images at another size than it was trained at: 96, or 96x128 for height x width in pixels.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    size = None if image_size is None else parse_size(image_size)
    paths = find_images(images)
    loaded = Classifier.load(classifier, device)
    loaded = loaded.at_size(size) if size else loaded
    check_all_read(tables.show_answers(answers(loaded, paths, top), json))
