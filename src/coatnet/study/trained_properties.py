"""What the report of a study says of the paper's Table 1, measured on its trained networks; imports torch."""

from __future__ import annotations

from collections.abc import Iterator

from coatnet.errors import ConfigError
from coatnet.pages.page import Section, Table
from coatnet.study import figures
from coatnet.study.analysis import of
from coatnet.study.folder import StudyFolder
from coatnet.study.named_network import load_network
from coatnet.study.properties import Measured, measure
from coatnet.study.results import Gathered, write_csv

TITLE = "Three properties (Table 1)"
_TEXT = (
    "Translation equivariance: how far the features of a shifted image are from the shifted features, relative to how "
    "much they differ from place to place; 0 if they move along. On a torus, where no border enters. Input-adaptive "
    "weighting: 0 for fixed weights. Receptive field of the feature at the centre: the least share of the image that "
    "holds 90 % of its gradient, and the share that has any."
)
_NUMBERS = (
    "image_size",
    "stride",
    "error_at_stride",
    "error_at_pixels",
    "input_adaptivity",
    "receptive_field",
    "reached",
)


def properties(found: Gathered, folder: StudyFolder) -> Iterator[Section]:
    """One trained network of each layout: that of the longest capacity, else of the most images, and the last seed."""
    trained = of(found.results, "capacity") or of(found.results, "generalization")
    runs = {one.run.arm: one.run.name for one in trained}  # in the order of the plan the last stays
    if not runs:
        return
    try:
        measured = {
            arm: measure(load_network(folder.run(run).path).model, arm, found.study.config.image_size)
            for arm, run in runs.items()
        }
    except ConfigError as error:  # an image size of which no shift moves the last map by one place
        yield Section(title=TITLE, text=[f"Not measured: {error.message}."])
        return
    rows = [{"run": runs[arm], **one.properties.model_dump(include=set(_NUMBERS))} for arm, one in measured.items()]
    write_csv(folder.report / "properties.csv", rows)
    yield Section(
        title=TITLE,
        text=[_TEXT, f"Measured on {', '.join(runs.values())}. Data: properties.csv."],
        pictures=[figures.receptive_fields(folder.report, {arm: one.gradient for arm, one in measured.items()})],
        tables=[_table(measured)],
    )


def _table(measured: dict[str, Measured]) -> Table:
    columns = ("network", "error of a shift by a place", "by less", "adaptive weighting", "90 % lie in", "reached")
    rows = [
        (
            arm, f"{one.error_at_stride:.1e} ({one.stride} px)", f"{one.error_at_pixels:.2f}",
            f"{one.input_adaptivity:.3f}", f"{one.receptive_field:.1%}", f"{one.reached:.0%}",
        )
        for arm, (one, _) in measured.items()
    ]  # fmt: skip
    return Table(columns=columns, rows=rows)
