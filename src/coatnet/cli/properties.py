"""`coatnet properties`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coatnet.cli.model_tables import show_properties
from coatnet.cli.printing import show_json
from coatnet.errors import ConfigError

LONGEST_NAME = 200
"""Characters of a picture's name; file systems take 255 bytes."""


def properties(
    *networks: Annotated[str, Parameter(required=True)],
    image_size: int | None = None,
    budget: str = "coatnet_0",
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure what the paper's Table 1 claims: translation equivariance, input-adaptive weighting, receptive field.

    Args:
        networks: members, guests as timm/NAME, layouts as CCTT or ViT, run or classifier folders; as many as you like.
            What is no folder gets fresh weights.
        image_size: of the generated images, pixels, instead of the network's own; a multiple of its stride.
        budget: size of the layouts: parameters as 25M, multiply-adds as 4.2G, or a member.
        out: folder for a picture of each network's receptive field.
        json: print a list of objects instead of a table.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file", "give a folder; it is made if it is not there")
    from coatnet.study.named_network import open_network
    from coatnet.study.properties import measure

    rows = []
    for word in networks:
        network = open_network(word, budget, image_size)
        measured = measure(network.model, word, _side(word, network.image_size))
        rows.append(measured.properties.model_dump(mode="json"))
        if out is not None:
            from coatnet.pages.plots import receptive_fields

            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{word.strip('/').replace('/', '-')[-LONGEST_NAME:]}.png"
            receptive_fields(path, {Path(word).name: measured.gradient})
    show_json(rows) if json else show_properties(rows)


def _side(word: str, image_size: tuple[int, int]) -> int:
    height, width = image_size
    if height != width:
        raise ConfigError(f"{word} is fed {height}x{width} pixels, and squares are measured", "give --image-size")
    return height
