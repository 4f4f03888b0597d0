"""What a measurement of faithfulness says, as a section of a page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coatnet.explanation.faithfulness import CELLS, GAMES, Faithfulness, Gain, Game
from coatnet.pages.page import Picture, Section, Table
from coatnet.pages.plots import Panel, Series, panels

COLUMNS = ("map", "deletion", "against random", "insertion", "against random", "verdict")
CAPTION = "areas under the curves; against random, above 0 is better in both games"
RANDOM = "random order"


def faithfulness_section(measured: Faithfulness, folder: Path) -> Section:
    """Curves and table of a measurement.

    Args:
        measured: of one image or many.
        folder: where the picture of the curves is written.
    """
    one = measured.num_images == 1
    count = "this image" if one else f"{measured.num_images} images"
    path = folder / "faithfulness.png"
    panels(path, [_panel(measured, game) for game in GAMES])
    return Section(
        title="Do the maps show what counts?",
        text=[
            f"The image is cut into {CELLS} x {CELLS} cells. Deletion replaces them by the mean colour, insertion "
            "uncovers them in a blurred copy, the hottest first. A good map makes the probability fall early, and rise "
            f"early. The baseline changes the same cells in random order. Measured on {count}"
            + (": a map may win or lose on one image by chance." if one else ", paired; intervals are 95 %.")
        ],
        pictures=[Picture(path=path, alt="deletion and insertion curves of each map and of a random order")],
        tables=[Table(columns=COLUMNS, rows=faithfulness_rows(measured), caption=CAPTION)],
    )


def faithfulness_rows(measured: Faithfulness) -> Sequence[Sequence[str]]:
    """A row for each map and one for the random order, of `COLUMNS`."""
    deleted, inserted = (f"{measured.area(None, game):.3f}" for game in GAMES)
    rows = [(RANDOM, deleted, "", inserted, "", "baseline")]
    for method in measured.methods:
        areas = (f"{measured.area(method, game):.3f}" for game in GAMES)
        gains = (_told(measured.gain(method, game), measured.num_images) for game in GAMES)
        deletion, insertion = zip(areas, gains, strict=True)
        rows.append((method, *deletion, *insertion, measured.verdict(method)))
    return rows


def _panel(measured: Faithfulness, game: Game) -> Panel:
    lines = []
    for method in (None, *measured.methods):
        curve = measured.mean_curve(method, game)
        lines.append(Series(name=method or RANDOM, x=np.linspace(0, 100, len(curve)).tolist(), y=curve.tolist()))
    done = {"deletion": "deleted", "insertion": "inserted"}[game]
    return Panel(title=game, x=f"per cent of the cells {done}", y="probability of the class", series=lines)


def _told(gain: Gain, num_images: int) -> str:
    return f"{gain.mean:+.3f}" + ("" if num_images == 1 else f" ({gain.low:+.3f} to {gain.high:+.3f})")
