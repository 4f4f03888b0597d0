"""`coatnet pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coatnet.cli.data_tables import show_packed
from coatnet.cli.printing import show_json
from coatnet.data.outside import outside
from coatnet.data.packing import PackConfig
from coatnet.data.packing import pack as write_shards
from coatnet.data.sources import DataConfig
from coatnet.errors import DataError


def pack(  # noqa: PLR0913 (flags)
    data: str,
    folder: Path,
    /,
    *,
    pack_flags: Annotated[PackConfig | None, Parameter(name="*")] = None,
    image_column: str = "image",
    label_column: str = "label",
    image_root: str | None = None,
    image_suffix: str | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Pack a data set into tar shards, which every verb takes as DATA. Images that cannot be read are left out and
    named, and the exit code is then 3.

    Args:
        data: what `coatnet train` takes.
        folder: a new folder for the shards.
        image_column: column of a Parquet or CSV file that holds the images or their paths.
        label_column: column of a Parquet or CSV file that holds the labels.
        image_root: folder that the paths of a CSV file are relative to, itself relative to the file.
        image_suffix: what the paths of a CSV file lack at the end, as .jpg.
        json: print one object instead of lines.
    """
    config = DataConfig(
        path=data,
        image_column=image_column,
        label_column=label_column,
        image_root=image_root,
        image_suffix=image_suffix,
    )
    place = folder.expanduser()
    if not place.is_file():  # of a file there is more to say
        place = outside(place, data, "FOLDER")
    packed = write_shards(config, place, pack_flags or PackConfig())
    told = {**packed._asdict(), "folder": str(packed.folder)}
    show_json(told) if json else show_packed(packed)
    if packed.unreadable:
        raise DataError(
            f"{len(packed.unreadable)} images cannot be read and are not in the shards.",
            hint="The others are; repair these and pack again, or leave them out.",
        )
