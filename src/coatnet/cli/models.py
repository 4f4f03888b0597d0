"""`coatnet models`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from coatnet.cli import tables
from coatnet.model.family import FAMILY, PAPER
from coatnet.model.size import model_size


def models(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List the members of the family with their sizes.

    Args:
        json: print a list of objects instead of tables.
    """
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
    tables.show_json(rows) if json else tables.show_models(rows)
