"""`coatnet resume`."""

from __future__ import annotations

from pathlib import Path

from coatnet.cli import tables


def resume(run: Path, /) -> None:
    """Go on with a run that stopped, from its newest whole checkpoint.

    Args:
        run: the run's folder.
    """
    from coatnet.training import loop

    tables.show_run(loop.resume(run))
