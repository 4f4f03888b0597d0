"""`coatnet doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coatnet.classifier.doctor import examine
from coatnet.cli.model_tables import show_examination
from coatnet.cli.printing import show_json
from coatnet.cli.runs import sample_of
from coatnet.errors import ModelFileError


def doctor(path: Path, data: str | None = None, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Say what a checkpoint is, whether its parts agree, and what looks wrong. If anything is, the exit code is 4.

    Args:
        path: a run folder, a classifier folder, or a file of weights.
        data: labelled images that it should know: with them the normalisation and the order of the classes are tried
            as well. After a run folder it may be left out: the data of the run.
        json: print one object instead.
    """
    examination = examine(path, sample_of(path, data))
    show_json(examination.as_dict()) if json else show_examination(examination)
    if not examination.healthy:
        raise ModelFileError(f"{path} is not in order", "what is wrong is told above")
