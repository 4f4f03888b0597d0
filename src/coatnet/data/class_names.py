"""The name of a class as it is written down, and which names are hard to tell apart. No torch."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from coatnet.data.samples import plain_text, printable

# What pandas, SQL and Python write where there is no value: as the name of a class it may be a mistake.
_NO_VALUE = {"nan", "none", "null", "na", "n/a", "<na>", "nil", "nat"}


def class_name(raw: str) -> str:
    """A class by one name, however a file system or a table spells it: composed (NFC), no white space at the ends."""
    return printable(plain_text(raw).strip() or raw)


def similar_names(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that differ only by case, white space, Unicode form or leading zeros of a number."""
    groups = defaultdict(set)
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups[key.lstrip("0") or "0" if key.isdecimal() else key].add(name)
    return tuple(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def valueless_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names that programs write where a value is missing, such as nan."""
    return tuple(name for name in names if name.casefold() in _NO_VALUE)
