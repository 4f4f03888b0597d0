"""`coatnet models`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from coatnet.cli.model_tables import show_models, show_published
from coatnet.cli.printing import show_json
from coatnet.model.catalogue import CATALOGUE, INTERPOLATION, Entry
from coatnet.model.family import FAMILY, PAPER
from coatnet.model.size import model_size


def models(
    *,
    published: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List the members of the family with their sizes.

    Args:
        published: list the published weights of CoAtNets instead, which other people trained.
        json: print a list of objects instead of tables; rates are fractions.
    """
    if published:
        rows = [_published_row(name, entry) for name, entry in CATALOGUE.items()]
        show_json(rows) if json else show_published(rows)
        return
    rows = [
        {
            "name": name,
            "origin": "paper" if name in PAPER else "coatnet",
            "layout": config.layout,
            "parameters": (size := model_size(config)).parameters,
            "multiply_adds": size.multiply_adds,
            "image_size": config.image_size,
            "classes": config.num_classes,
        }
        for name, config in FAMILY.items()
    ]
    show_json(rows) if json else show_models(rows)


def _published_row(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": entry.parameters,
        "multiply_adds": entry.multiply_adds,
        "top1": None if entry.top1 is None else round(entry.top1 / 100, 4),
        "classes": entry.num_classes,
        "image_size": entry.image_size,
        "crop_mode": entry.crop_mode,
        "crop_fraction": entry.crop_fraction,
        "interpolation": INTERPOLATION,
        "mean": entry.mean,
        "std": entry.std,
    }
