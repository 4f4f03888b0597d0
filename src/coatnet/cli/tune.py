"""`coatnet tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from coatnet.cli.flags import Asked, AskedGroup, build_config
from coatnet.cli.printing import show_json
from coatnet.cli.run_tables import show_tuning
from coatnet.data.outside import outside
from coatnet.errors import ConfigError
from coatnet.frozen import Frozen
from coatnet.training.config import parse_duration
from coatnet.training.folder import default_name, is_taken


class TuneFlags(Frozen):
    """How long to search."""

    trials: PositiveInt = 20
    """Runs in all, those of an earlier start counted; at the end the best of them run against the recipe with other
    seeds, up to 16 runs more."""
    time: Annotated[PositiveFloat | None, BeforeValidator(parse_duration), Parameter(metavar="DURATION")] = None
    """No trial is begun after it, but the last round comes: 90s, 30m or 2h."""
    epochs: PositiveFloat | None = None
    """Length of a trial and of the run that is searched for; default: the recipe's."""
    seed: int = Field(0, ge=0)
    """Of the search and of each run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def tune(
    data: str,
    /,
    *,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    tune_flags: Annotated[TuneFlags | None, Parameter(name="*")] = None,
    asked_flags: AskedGroup = None,
) -> None:
    """Find good settings by runs around what the recipe chooses: learning rate, weight decay, batch, stochastic depth,
    label smoothing, mixup, cutmix, strength of augmentation. Validation accuracy decides, and the recipe's settings
    stay unless others are better with each of 4 other seeds. Given again, the same command goes on.

    Args:
        data: as for train.
        out: folder of the search; default: runs/tune- and the name of the data.
        json: print one object instead of a table; accuracies are fractions.
    """
    flags, asked = tune_flags or TuneFlags(), asked_flags or Asked()
    folder = out.expanduser() if out else Path("runs") / f"tune-{default_name(data)}"
    blocked = next((path for path in (folder, *folder.absolute().parents) if path.exists() and not path.is_dir()), None)
    if blocked:
        raise ConfigError(f"--out {folder}: {blocked} is a file", "choose a new folder")
    if is_taken(folder) and not (folder / "tune.json").is_file():
        raise ConfigError(f"--out {folder} is not empty", "choose another folder")
    folder = outside(folder, data)
    chosen = {"seed": flags.seed, "device": flags.device, **({"epochs": flags.epochs} if flags.epochs else {})}
    parts = {"run": chosen, "data": {}, "model": {}, "optimizer": {}, "augmentation": {}}
    config, _ = build_config(data, parts, asked)
    from coatnet.training import tune as tuning

    words = [data]
    for name in Asked.model_fields:
        if name in asked.model_fields_set and getattr(asked, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(asked, name))]
    for name in ("epochs", "seed", "device"):
        if name in flags.model_fields_set:
            words += [f"--{name}", str(getattr(flags, name))]
    found = tuning.tune(config, folder, tuple(words), trials=flags.trials, seconds=flags.time)
    show_json(found.as_dict()) if json else show_tuning(found)
