"""What `coatnet study` prints for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from coatnet.cli.printing import duration, new_table, print_lines, print_sentences
from coatnet.study.advise import Advice
from coatnet.study.folder import ArmPace, StudyFolder
from coatnet.study.networks import Study
from coatnet.study.plan import PlannedRun
from coatnet.study.work import expected_seconds

VERDICT_COLUMNS = ("experiment", "setting", "measure", "pair", "verdict")


def show_plan(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun], pace: Mapping[str, ArmPace]) -> None:
    """The networks, how many runs are left of each experiment, and about how long they take one after another."""
    table = new_table("Networks", "name", "kind")
    for heading in ("parameters", "multiply-adds", "a training step"):
        table.add_column(heading, justify="right")
    for arm in study.arms:
        step = f"{1000 * pace[arm.name].step:,.0f} ms" if arm.name in pace else ""
        sizes = f"{arm.parameters / 1e6:,.3f} M", f"{arm.multiply_adds / 1e6:,.1f} M"
        table.add_row(arm.name, arm.kind, *sizes, step)
    print_lines(table, "")
    left = [run for run in runs if not folder.is_done(run)]
    counts = Counter(f"{run.experiment}{'' if run.rate is None else ' trials'}" for run in left)
    told = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"
    print_sentences(f"{len(runs)} runs, {len(left)} left: {told}.")
    seconds = sum(expected_seconds(study, run, pace[run.arm]) for run in left if run.arm in pace)
    print_lines(f"About {duration(seconds)} one after another. Folder: {folder.path}", "")


def show_left(folder: StudyFolder, runs: Sequence[PlannedRun]) -> None:
    """How many runs are missing, and what to type next."""
    left = sum(not folder.is_done(run) for run in runs)
    print_lines(f"{len(runs) - left} of {len(runs)} runs are done: coatnet study report {folder.path}")


def show_runs(folder: StudyFolder, runs: Sequence[PlannedRun]) -> None:
    """Every run by its number."""
    numbers = {run.name: number for number, run in enumerate(runs)}
    table = new_table("Runs", "number", "name", "done", "after")
    for number, run in enumerate(runs):
        needs = ", ".join(str(numbers[name]) for name in run.needs)
        table.add_row(str(number), run.name, "yes" if folder.is_done(run) else "", needs)
    print_lines(table)


def show_verdicts(rows: Sequence[Mapping[str, object]], page: Path) -> None:
    """The paper's orderings, pair by pair, and where the report is."""
    table = new_table("Verdicts", "experiment", "setting", "measure", "the paper's pair", "verdict")
    table.add_column("difference, points", justify="right")
    for row in rows:
        numbers = (f"{100 * float(str(row[name])):+.2f}" for name in ("difference", "low", "high"))
        told = [f"{row['setting']:g}" if name == "setting" else str(row[name]) for name in VERDICT_COLUMNS]
        table.add_row(*told, "{} ({} to {})".format(*numbers))
    print_lines(table, f"Report: {page}")


def show_advice(advice: Advice) -> None:
    """The network, what it costs here, and why."""
    print_sentences(
        f"{advice.name}: layout {advice.layout}, {advice.parameters / 1e6:,.2f} M parameters, "
        f"{advice.multiply_adds / 1e6:,.0f} M multiply-adds, {1000 * advice.latency:,.1f} ms for one image here.",
        f"Why: {advice.reason}.",
        *(f"  {name}" for name in advice.runs),
    )
