"""Nothing is written among the images: what a folder of data holds is data the next time. No torch."""

import os
from pathlib import Path

from coatnet.data.samples import printable
from coatnet.errors import ConfigError


def is_inside(folder: Path, data: str) -> bool:
    """Whether a folder or file to be written lies in a folder of data, links followed."""
    place = Path(os.path.expanduser(data))
    if not os.path.isdir(place):
        return False
    return Path(os.path.realpath(place)) in Path(os.path.realpath(folder)).parents


def outside(folder: Path, data: str, flag: str = "--out") -> Path:
    """The folder or file, if it does not lie in the data.

    Raises:
        ConfigError: it does; the hint gives a place beside the data.
    """
    if not is_inside(folder, data):
        return folder
    beside = Path(os.path.realpath(os.path.expanduser(data))).parent / "runs" / folder.name
    raise ConfigError(
        f"{printable(str(folder))} lies in the data, {printable(data)}, which is only read.",
        f"choose a place outside of it, as {flag} {printable(str(beside))}",
    )
