"""`coatnet train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from coatnet.cli import runs
from coatnet.cli.flags import (
    Asked,
    AskedGroup,
    AugmentationGroup,
    DataGroup,
    ModelGroup,
    OptimizerGroup,
    RunGroup,
    build_config,
    given,
    run_settings,
)
from coatnet.cli.run_tables import show_choices, show_forecast, show_run
from coatnet.errors import ConfigError
from coatnet.ranks import is_main
from coatnet.training.folder import RunFolder

if TYPE_CHECKING:
    from coatnet.training.loop import Run

Flags = dict[str, dict[str, Any]]
"""For each part of the config, the values that the user gave."""


def train(  # noqa: PLR0913 (flags)
    data: str,
    /,
    *,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    asked_flags: AskedGroup = None,
    run_flags: RunGroup = None,
    data_flags: DataGroup = None,
    model_flags: ModelGroup = None,
    optimizer_flags: OptimizerGroup = None,
    augmentation_flags: AugmentationGroup = None,
) -> None:
    """Train a classifier. What is not given is chosen from the data, said, and stored in the run's folder.

    Args:
        data: folder of class folders, Parquet or CSV file, folder or address of tar shards, a name as cifar10 or
            hf:beans, or the name digits, which needs no files.
        out: folder of the run; default: runs/ and the name of the data, with a number if that is taken.
        resume: go on with the run in --out; start it if there is none.
        overwrite: remove the run in --out first.
        dry_run: say what would be trained, and from a few timed steps how long it takes and how much memory; write
            nothing.
    """
    if dry_run and (resume or overwrite):
        raise ConfigError(
            f"--dry-run and --{'resume' if resume else 'overwrite'} exclude each other", "give one of them"
        )
    flags = {
        "run": run_settings(given(run_flags)),
        "data": given(data_flags),
        "model": given(model_flags),
        "optimizer": given(optimizer_flags),
        "augmentation": given(augmentation_flags),
    }
    asked = asked_flags or Asked()
    if dry_run:
        _show_plan(data, runs.choose_folder(data, out, resume, overwrite), flags, asked)
        return
    with runs.claimed_folder(data, out, resume, overwrite) as folder:
        run = _train(data, folder, flags, asked, overwrite=overwrite, resume=resume)
    if is_main():
        show_run(run)


def _show_plan(data: str, folder: Path, flags: Flags, asked: Asked) -> None:
    """What a run would do and take."""
    config, splits = build_config(data, flags, asked)
    if is_main():
        show_choices(config, folder)
    from coatnet.training.forecast import forecast  # imports torch: only when all that was typed is right

    expected = forecast(config, splits)
    if is_main():
        show_forecast(expected)


def _train(  # noqa: PLR0913 (options are keywords)
    data: str, folder: Path, flags: Flags, asked: Asked, *, overwrite: bool, resume: bool
) -> Run:
    """A new run, or one that goes on."""
    if resume and RunFolder(folder).exists():
        runs.check_unchanged(folder, data, flags, asked)
        from coatnet.training import loop

        return loop.resume(folder)
    config, splits = build_config(data, flags, asked)
    if is_main():
        show_choices(config, folder)
    from coatnet.training import loop

    command = shlex.join(["coatnet", *sys.argv[1:]])
    return loop.train(config, folder, splits=splits, overwrite=overwrite, command=command)
