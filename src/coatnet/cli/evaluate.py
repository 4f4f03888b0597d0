"""`coatnet evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from coatnet.classifier.artefact import AskedPrecision
from coatnet.cli.flags import parse_size
from coatnet.cli.printing import show_json
from coatnet.cli.runs import data_of, open_classifier, split_of, tell_runtime
from coatnet.cli.score_tables import show_evaluation
from coatnet.evaluation.evaluate import BATCH_SIZE, Bad, Split
from coatnet.evaluation.evaluate import evaluate as score
from coatnet.runtime.engines import Runtime


def evaluate(  # noqa: PLR0913 (flags)
    classifier: Path,
    data: str | None = None,
    /,
    *,
    split: Split | None = None,
    bad: Bad = "wrong",
    json: Annotated[bool, Parameter(negative=())] = False,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1))] = BATCH_SIZE,
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    device: str = "auto",
    runtime: Runtime = "auto",
    precision: AskedPrecision = "float32",
) -> None:
    """Score a classifier on a data set: the test split, else val, else all of it.

    Args:
        classifier: a run folder, a classifier folder, an exported folder, or published weights as timm/NAME.TAG.
        data: what `coatnet train` takes; after a run folder it may be left out: the data of the run.
        split: which part of the data.
        bad: images that cannot be read count as wrong, or are excluded; they are named in any case.
        json: print one object instead of tables; rates are fractions.
        batch_size: images at once.
        image_size: feed images at another size than it was trained at: 96, or 96x128 for height x width in pixels.
        device: auto, cpu, cuda, cuda:N or mps.
        runtime: what computes; auto takes the fastest that is installed, and says which. A classifier is converted for
            it once.
        precision: of the forward pass; auto takes bfloat16 where the CPU multiplies it and its error was found small.
    """
    size = None if image_size is None else parse_size(image_size)
    config, record = data_of(classifier, data), split_of(classifier)
    loaded = open_classifier(classifier.as_posix(), device, precision, runtime=runtime, image_size=size)
    tell_runtime(loaded, runtime)
    result = score(loaded, config, split=split, bad=bad, batch_size=batch_size, record=record)
    show_json(result.as_dict()) if json else show_evaluation(result)
