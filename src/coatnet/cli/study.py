"""`coatnet study`, `coatnet study report`, `coatnet study advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cyclopts import Group, Parameter
from pydantic import Field, PositiveInt, model_validator

from coatnet.cli.flags import AUTO_BATCH, given, run_settings
from coatnet.cli.printing import show_json
from coatnet.data.outside import outside
from coatnet.data.sources import DataConfig, stored_path
from coatnet.errors import ConfigError
from coatnet.study.config import Experiments, Rates, Shares, Sizes, StudyConfig, Words, study_config
from coatnet.study.folder import StudyFolder
from coatnet.study.plan import plan as planned
from coatnet.training.folder import default_name

_LIST = Parameter(n_tokens=1, metavar="A,B,...")
_BY_DATA = Parameter(show_default=False)


def _same(name: str) -> Any:
    """Default, bounds and help of a field that is declared again for the sake of its flag."""
    return StudyConfig.model_fields[name]


class StudyFlags(StudyConfig):
    """StudyConfig with lists in one word each, and data by its path."""

    data: Annotated[DataConfig | None, Parameter(parse=False)] = None  # type: ignore[assignment]
    layouts: Annotated[Words, _LIST] = _same("layouts")
    budget: Annotated[str | None, _BY_DATA] = None
    """Common size of the layouts: parameters as 25M, multiply-adds as 4.2G, or those of a member, as coatnet_0.
    Default: coatnet_0, or 3M for small images."""
    networks: Annotated[str | None, Parameter(metavar="FILE")] = _same("networks")
    image_size: Annotated[int, _BY_DATA] = 32
    """Height and width of the input, pixels. Default: 224, or 32 or 64 for small images."""
    experiments: Annotated[Experiments, _LIST] = _same("experiments")
    rates: Annotated[Rates, _LIST] = _same("rates")
    fractions: Annotated[Shares, _LIST] = _same("fractions")
    passes: Annotated[Rates, _LIST] = _same("passes")
    target: str | None = None  # type: ignore[assignment]
    """Transfer: the images to fine-tune on, given as DATA is."""
    sizes: Annotated[Sizes, _LIST, _BY_DATA] = (32, 48)
    """Transfer: image sizes, pixels. Default: that of the study, and 12/7 of it as in the paper's Table 2."""
    transferred: Annotated[Words, _LIST] = _same("transferred")
    transfer_rates: Annotated[Rates, _LIST] = _same("transfer_rates")
    contenders: Annotated[Words, _LIST] = _same("contenders")
    batch_size: Annotated[PositiveInt | Literal["auto"], Parameter(alias="--batch")] = Field(  # type: ignore[assignment]
        128, description=f"{_same('batch_size').description} {AUTO_BATCH}"
    )

    @model_validator(mode="after")
    def _is_one_study(self) -> Self:
        """Not looked at yet: `study_config` adds what the data says, and looks then."""
        return self


class StudyDataFlags(DataConfig):
    """DataConfig less what a study sets for each run."""

    path: Annotated[str, Parameter(parse=False)] = ""
    train_fraction: Annotated[float, Parameter(parse=False)] = 1.0
    split_seed: Annotated[int, Parameter(parse=False)] = 0


def study(  # noqa: PLR0913 (flags)
    data: str,
    /,
    *,
    out: Path | None = None,
    plan: Annotated[bool, Parameter(negative=())] = False,
    only: int | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    study_flags: Annotated[StudyFlags | None, Parameter(name="*", group=Group("Study", sort_key=1))] = None,
    data_flags: Annotated[StudyDataFlags | None, Parameter(name="*", group=Group("Data", sort_key=2))] = None,
) -> None:
    """Train layouts of one size on the same data, and ask which stages should convolve and which attend. Given again,
    the same command does what is missing; started several times at once, it shares the work.

    Args:
        data: as for train.
        out: folder of the study; default: runs/study- and the name of the data.
        plan: list the runs and say about how long they take; train nothing.
        only: do one run, by its number in the plan: for a Slurm array or the like.
        json: print one object, with layouts and runs, instead of tables.
    """
    if plan and only is not None:
        raise ConfigError("--plan does no run, and --only does one", "give one of them")
    asked = run_settings(given(study_flags))
    if asked.get("target"):
        asked["target"] = DataConfig(path=stored_path(asked["target"]))
    if asked.get("networks"):
        asked["networks"] = str(Path(asked["networks"]).expanduser().absolute())
    config = study_config(DataConfig(**{**given(data_flags), "path": stored_path(data)}), **asked)
    place = out.expanduser() if out else Path("runs") / f"study-{default_name(data)}"
    folder = StudyFolder(outside(place, data))
    found = folder.claim(config)
    runs = planned(found)
    if only is not None and not 0 <= only < len(runs):
        raise ConfigError(f"--only {only}: the plan has runs 0 to {len(runs) - 1}", "see --plan")
    from coatnet.cli import study_tables
    from coatnet.study import work

    if only is None:
        pace = work.measure_pace(folder, found, runs)
        if not json:
            study_tables.show_plan(folder, found, runs, pace)
        if plan and not json:
            study_tables.show_runs(folder, runs)
    if not plan:
        work.work(folder, found, runs if only is None else [runs[only]])
    if json:
        show_json(work.plan_as_dict(folder, found, runs))
    elif not plan:
        study_tables.show_left(folder, runs)


def study_report(folder: Path, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Gather what a study's runs came to, done or not: report/report.html with figures, verdicts and costs; every
    figure as PNG, its data as CSV.

    Args:
        folder: of the study.
        json: print the verdicts as one object instead of a table.
    """
    from coatnet.cli import study_tables
    from coatnet.study import report

    place = StudyFolder(folder.expanduser())
    page, rows = report.write_report(place)
    if json:
        show_json({"report": str(page), "verdicts": rows})
    else:
        study_tables.show_verdicts(rows, page)


def study_advise(  # noqa: PLR0913 (flags)
    data: str,
    /,
    *,
    latency: str | None = None,
    parameters: str | None = None,
    study: Path | None = None,
    device: str = "auto",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Say which member and layout to use for some data within a limit, measured on this machine, and which runs of a
    study say so.

    Args:
        data: as for train.
        latency: of one image, from preprocessed pixels to logits, as 20ms.
        parameters: as 10M.
        study: folder of a study; default: runs/study- and the name of the data, if it is there.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print one object.
    """
    from coatnet.cli import study_tables
    from coatnet.study import advise

    limit = advise.parse_limit(latency, parameters)
    usual = Path("runs") / f"study-{default_name(data)}"
    place = study.expanduser() if study else usual if (usual / "study.json").is_file() else None
    advice = advise.advise(DataConfig(path=stored_path(data)), limit, StudyFolder(place) if place else None, device)
    show_json(advice.as_dict()) if json else study_tables.show_advice(advice)
