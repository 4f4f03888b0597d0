"""`coatnet resume`."""

from __future__ import annotations

from pathlib import Path

from coatnet.cli.run_tables import show_run
from coatnet.ranks import is_main


def resume(run: Path, /, *, data: str | None = None) -> None:
    """Go on with a run that stopped, from its newest whole checkpoint.

    Args:
        run: the run's folder.
        data: where its data is now, if that moved; given as to train.
    """
    from coatnet.training import loop

    done = loop.resume(run, data=data)
    if is_main():
        show_run(done)
