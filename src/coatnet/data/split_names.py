"""Which names mean a split: of folders, files, table cells. No torch."""

import re
from collections import defaultdict
from collections.abc import Sequence

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""The usual words for the three splits. dev is the validation split of speech and language sets, eval that of others;
tr, va and te are not among them, for they are codes of languages too."""
# Words that say nothing: training_set, test-images, valid_data.
_EMPTY_WORDS = {"set", "data", "dataset", "image", "images", "img", "imgs", "split", "folder"}


def split_of(name: str) -> str | None:
    """train, val or test if this name means it, in whatever case, with a number or an empty word beside; else None."""
    words = [word for word in _words(name) if word not in _EMPTY_WORDS]
    return SPLIT_NAMES.get(words[0]) if len(words) == 1 else None


def splits_among(names: Sequence[str]) -> dict[str, str]:
    """Which of some names mean splits, and which: by themselves, or as seg_train and seg_test do together.

    One of `bullet_train` and `coffee` does not.
    """
    alone = {name: part for name in names if (part := split_of(name))}
    if "train" in alone.values():
        return alone
    together: defaultdict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        words = _words(name)
        for word in words:
            if word in SPLIT_NAMES:
                together[tuple(other for other in words if other != word)][name] = SPLIT_NAMES[word]
    found = [parts for parts in together.values() if len(set(parts.values())) > 1 and "train" in parts.values()]
    return found[0] if len(found) == 1 else alone


def _words(name: str) -> list[str]:
    words = re.findall(r"[^\W\d_]+", name.casefold())
    return [word.removesuffix("set") if word.removesuffix("set") in SPLIT_NAMES else word for word in words]
