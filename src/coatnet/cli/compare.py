"""`coatnet compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coatnet.cli.printing import show_json
from coatnet.cli.run_tables import show_comparison
from coatnet.errors import ConfigError


def compare(
    *runs: Annotated[Path, Parameter(required=True)],
    report: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Put runs side by side: what they reached, what they cost, and their settings that differ. They may still go on.

    Args:
        runs: two run folders or more.
        report: HTML file to write, with the curves of all runs in one picture.
        json: print one object instead of tables; accuracies are fractions.
    """
    if report is not None and report.suffix != ".html":
        raise ConfigError(
            f"--report {report} is no page", "give a name that ends with .html; an older page is replaced"
        )
    from coatnet.training import compare as comparing

    comparison = comparing.compare(runs)
    if report is not None:
        comparing.write_comparison(comparison, report)
    show_json(comparison.as_dict()) if json else show_comparison(comparison)
