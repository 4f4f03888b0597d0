"""Training runs in tables: what is chosen, expected, reached, compared."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from coatnet.cli.printing import duration, interval, new_table, percent, print_lines, print_sentences
from coatnet.data.samples import printable

if TYPE_CHECKING:
    from coatnet.training.compare import Comparison
    from coatnet.training.config import TrainConfig
    from coatnet.training.forecast import Forecast
    from coatnet.training.loop import Run
    from coatnet.training.tune import Tuning


def show_choices(config: TrainConfig, folder: Path) -> None:
    """What a recipe chose, before training starts."""
    for choice in config.choices:
        name, _, reason = choice.partition(": ")
        print_sentences(Text.assemble((f"{name}: ", "bold") if reason else name, reason))
    print_lines(Text.assemble(("folder: ", "bold"), printable(str(folder))))


def show_forecast(expected: Forecast) -> None:
    """What a run would take."""
    run, pace = expected.config.run, expected.pace
    assert run.steps
    epochs = run.steps * run.batch_size / expected.num_images
    parts = f" in {run.accumulate} micro-batches" if run.accumulate != 1 else ""
    for name, told in {
        "steps": f"{run.steps:,} of {run.batch_size} images{parts}, {epochs:.1f} epochs",
        "time": f"about {duration(expected.seconds)}: {pace.step:.3f} s a step, {expected.evaluations} evaluations of "
        f"{pace.evaluation:.1f} s, {pace.final:.1f} s for the final score",
        "memory": f"{expected.memory / 1e9:.2f} GB of {expected.capacity / 1e9:.2f} GB on {expected.device}",
    }.items():
        print_sentences(Text.assemble((f"{name}: ", "bold"), told))
    print_lines("Nothing was written; without --dry-run it is trained.")


def show_run(run: Run) -> None:
    """Where a run ended: its score, its files, and what to do with them."""
    score, folder = run.evaluation, shlex.quote(printable(str(run.folder)))
    certainty = f", 95 % interval {interval(score.top1_interval)}, {score.num_images} images"
    print_lines("", Text.assemble((f"{score.split} accuracy {percent(score.top1)}", "bold"), certainty))
    print_lines(f"report      {printable(str(run.folder / 'report.html'))}")
    print_lines(f"classifier  {printable(str(run.classifier))}")
    print_lines(f"next        coatnet predict {folder} IMAGE...", f"            coatnet evaluate {folder}")


def show_tuning(tuning: Tuning) -> None:
    """The trials, the last round, and the command that trains with the best settings."""
    table = new_table("trials, by validation accuracy", "trial", "accuracy", *tuning.trials[0].settings)
    for trial in sorted(tuning.trials, key=lambda trial: -trial.top1):
        accuracy = percent(trial.top1) + (" (ended early)" if trial.pruned else "")
        table.add_row(str(trial.number), accuracy, *(f"{value:.3g}" for value in trial.settings.values()))
    print_lines("", table)
    if tuning.last_round:
        last = new_table("last round: validation accuracy with other seeds", "trial", "accuracy with each seed", "")
        for one in tuning.last_round:
            told = "the recipe" if one.number == 0 else "better with each seed" if one.won else "out"
            last.add_row(str(one.number), ", ".join(percent(top1) for top1 in one.top1), told)
        print_lines("", last)
    if tuning.best == 0:
        print_sentences("", "Nothing was better, with every seed, than what the recipe chooses, which is trial 0.")
    print_lines("", f"next        {printable(tuning.command)}")


def show_comparison(comparison: Comparison) -> None:
    """What runs reached, and the settings in which they differ."""
    from coatnet.training.compare import result_rows

    table = new_table("results", "run")
    for heading in ("steps", "images/s", "best validation", "final accuracy"):
        table.add_column(heading, justify="right")
    for row in result_rows(comparison):
        table.add_row(*(printable(text) for text in row))
    print_lines(table)
    if comparison.differences:
        settings = new_table("settings that differ", "setting", *(run.name for run in comparison.runs))
        for name, values in comparison.differences.items():
            settings.add_row(name, *(printable(value) for value in values))
        print_lines("", settings)
