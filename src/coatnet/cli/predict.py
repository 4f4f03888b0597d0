"""`coatnet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from coatnet.classifier.artefact import AskedPrecision
from coatnet.cli import runs
from coatnet.cli.answers import answers, check_all_read, find_images
from coatnet.cli.flags import parse_size
from coatnet.cli.score_tables import show_answers
from coatnet.errors import ConfigError
from coatnet.runtime.engines import Runtime


def predict(  # noqa: PLR0913 (flags)
    classifier: str,
    /,
    *images: Path,
    published: Annotated[bool, Parameter(negative=())] = False,
    top: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    json: Annotated[bool, Parameter(negative=())] = False,
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    device: str = "auto",
    runtime: Runtime = "auto",
    precision: AskedPrecision = "auto",
) -> None:
    """Name what is to be seen in images, a line for each. One that cannot be read is told, and the exit code is then 3.

    Args:
        classifier: a run folder, a classifier folder, an exported folder, or published weights as timm/NAME.TAG.
        images: files, folders that are searched for images, or - for an image on standard input.
        published: CLASSIFIER is the name of published weights, as NAME.TAG, or a folder or file of them; it may be left
            out for a good default. `coatnet models --published` lists names.
        top: how many classes to list.
        json: print one object a line instead; probabilities are fractions.
        image_size: feed images at another size than it was trained at: 96, or 96x128 for height x width in pixels.
        device: auto, cpu, cuda, cuda:N or mps.
        runtime: what computes; auto takes the fastest that is installed, and says which. A classifier is converted for
            it once.
        precision: auto takes bfloat16 where the CPU multiplies it and its error was found small.
    """
    if published:
        classifier, images = runs.published_and_images(classifier, images)
    if not images:
        raise ConfigError("IMAGES is missing", "give files or folders of images after the classifier")
    size = None if image_size is None else parse_size(image_size)
    paths = find_images(images)
    loaded = runs.open_classifier(classifier, device, precision, published=published, runtime=runtime, image_size=size)
    runs.tell_runtime(loaded, runtime)
    check_all_read(show_answers(answers(loaded, paths, top), json))
