"""Which sample of a folder of tar shards lies where: made in one pass, stored as one Parquet file. No torch."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from coatnet.data.class_names import class_name
from coatnet.data.listing import IMAGE_SUFFIXES
from coatnet.data.samples import printable
from coatnet.data.split_names import SPLIT_NAMES, split_of
from coatnet.data.storage import Storage, StoredFile
from coatnet.data.tables import encode_labels
from coatnet.data.tar_members import Member, ShardReader, members
from coatnet.data.user_cache import cache_folder, remember
from coatnet.errors import DataError
from coatnet.frozen import Frozen, explain

INDEX_NAME = "index.parquet"
CLASSES_NAME = "labels.txt"
_HEADER_KEY = b"coatnet"
_LABEL_SUFFIXES = ("cls", "json")
_LABEL_KEYS = ("label", "cls", "class")
# Changes when keys, labels or splits are read in another way: what was remembered before is made anew.
_RULES = "2"
# Digits of a number that int64 holds for sure.
_MOST_DIGITS = 19
# The name of a class; the longest of ImageNet-21K have about 150 characters.
_MOST_NAME = 1000
# A label is a number or a name; a JSON file beside an image may describe it at length.
_MOST_LABEL_BYTES = 1 << 20


class IndexHeader(Frozen):
    """What an index says besides its rows."""

    layout: int = 1
    """Changes when the columns do."""
    class_names: tuple[str, ...]
    """A label is an index into them."""
    shards: dict[str, int]
    """Bytes of each tar file, by its name below the folder; rows speak of them in this order."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of some tar files, in the order of the data set.

    Attributes:
        header: class names and tar files.
        parts: (samples,) the split of each: "train", "val", "test", or "all" where there are none.
        shards: (samples,) int64, which of the header's tar files.
        offsets: (samples,) int64, where the bytes of the image begin in it.
        lengths: (samples,) int64, how many they are.
        labels: (samples,) int64.
        names: (samples,) unique and printable.
    """

    header: IndexHeader
    parts: NDArray[np.str_]
    shards: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: Sequence[str]

    def as_parquet(self) -> bytes:
        """The bytes of the file; the same for the same index."""
        columns = {
            "part": pa.array(self.parts).dictionary_encode(),
            "shard": self.shards,
            "offset": self.offsets,
            "length": self.lengths,
            "label": self.labels,
            "name": list(self.names),
        }
        table = pa.table(columns).replace_schema_metadata({_HEADER_KEY: self.header.model_dump_json()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, where: str) -> "ShardIndex":
        """Read and check an index.

        Raises:
            DataError: it is damaged, or points outside of its tar files.
        """
        try:
            table = pq.read_table(io.BytesIO(data))
            header = IndexHeader.model_validate_json((table.schema.metadata or {})[_HEADER_KEY])
            numbers = [table[name].to_numpy().astype(np.int64) for name in ("shard", "offset", "length", "label")]
            parts = np.array(table["part"].cast(pa.string()).to_pylist(), dtype=np.str_)
            names = [str(name) for name in table["name"].to_pylist()]
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
            raise _damaged(where, reason) from error
        shards, offsets, lengths, labels = numbers
        index = cls(header, parts, shards, offsets, lengths, labels, names)
        sizes = np.array(list(header.shards.values()), dtype=np.int64)
        in_range = (shards >= 0) & (shards < len(sizes)) & (labels >= 0) & (labels < len(header.class_names))
        if not len(names) or not in_range.all() or not set(parts.tolist()) <= {*SPLIT_NAMES.values(), "all"}:
            raise _damaged(where, "no rows, or rows with a tar file, label or split that is not known")
        if not ((offsets >= 0) & (lengths >= 0) & (offsets <= sizes[shards] - lengths)).all():
            raise _damaged(where, "rows that point outside of their tar file")
        return index


def find_index(storage: Storage, files: dict[str, StoredFile], shards: Sequence[str]) -> tuple[ShardIndex, list[str]]:
    """The index beside the tar files, or of an earlier look at them; else they are looked through, once.

    Args:
        storage: where they lie.
        files: all that lies there.
        shards: the names of the tar files.

    Returns:
        The index, and notes for the user.

    Raises:
        DataError: a tar file is missing, damaged, or has changed since the index was made.
    """
    if INDEX_NAME in files:
        where = f"{storage.root}/{INDEX_NAME}"
        index = ShardIndex.from_parquet(_read_whole(storage, files[INDEX_NAME]), where)
        for name, size in index.header.shards.items():
            if name not in files or files[name].size != size:
                got = f"{files[name].size} bytes" if name in files else "missing"
                raise DataError(
                    f"{printable(storage.root)}: shard '{printable(name)}' is {got}, its index says {size} bytes.",
                    hint=f"Copy the shards again, or remove {INDEX_NAME} if they were changed on purpose.",
                )
        unknown = [name for name in shards if name not in index.header.shards]
        notes = [f"Shard '{printable(name)}' is not in {INDEX_NAME} and is not used." for name in unknown]
        return index, notes
    described = [
        _RULES,
        storage.root,
        *(str(files[name]) for name in (*shards, *(n for n in (CLASSES_NAME,) if n in files))),
    ]
    known = cache_folder("shards") / f"{hashlib.sha256(json.dumps(described).encode()).hexdigest()}.parquet"
    if known.is_file():
        try:
            return ShardIndex.from_parquet(known.read_bytes(), str(known)), []
        except DataError:
            known.unlink()  # it can be made again
    index, notes = _look_through(storage, files, shards)
    remember(known, index.as_parquet())
    return index, [*notes, f"{len(shards)} shards without an index were looked through, which is done once."]


def part_of(shard: str) -> str:
    """The split of a tar file by its folder or by a word of its name, as imagenet-val-000.tar; "all" if it has none."""
    folder, _, name = shard.rpartition("/")
    if folder:
        return split_of(folder) or "all"
    words = name.lower().removesuffix(".tar").replace("_", "-").split("-")
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "all")


class _Sample(NamedTuple):
    key: str
    image: Member
    label: int | str


def _look_through(
    storage: Storage, files: dict[str, StoredFile], shards: Sequence[str]
) -> tuple[ShardIndex, list[str]]:
    samples: dict[str, list[tuple[int, str, _Sample]]] = {}
    num_others = 0
    for number, shard in enumerate(shards):
        for sample in _samples(storage, files[shard]):
            if sample is None:
                num_others += 1
            else:
                samples.setdefault(part_of(shard), []).append((number, f"{shard}/{sample.key}", sample))
    if not samples:
        raise DataError(
            f"The {len(shards)} shards of {printable(storage.root)} hold no images.",
            hint=f"Images are members that end in one of {', '.join(IMAGE_SUFFIXES)}.",
        )
    long = [sample for rows in samples.values() for _, _, sample in rows if _is_long_number(sample.label)]
    if long:
        raise DataError(
            f"Sample '{printable(long[0].key)}' of {printable(storage.root)} has a label of {len(str(long[0].label))} "
            "digits; expected a class.",
            hint="Write the number or the name of a class into .cls.",
        )
    kinds = {type(sample.label) for rows in samples.values() for _, _, sample in rows}
    if len(kinds) > 1:
        raise DataError(
            f"The labels in the shards of {printable(storage.root)} are numbers here, text there.", hint="Use one kind."
        )
    values = {part: _as_array([sample.label for _, _, sample in rows]) for part, rows in samples.items()}
    stored = _read_whole(storage, files[CLASSES_NAME]).decode("utf-8") if CLASSES_NAME in files else ""
    names = tuple(line.strip() for line in stored.splitlines() if line.strip())
    class_names, labels = encode_labels(values, names or None)
    rows = [row for found in samples.values() for row in found]
    header = IndexHeader(class_names=class_names, shards={shard: files[shard].size for shard in shards})
    index = ShardIndex(
        header,
        np.repeat(list(samples), [len(found) for found in samples.values()]),
        np.array([number for number, _, _ in rows], dtype=np.int64),
        np.array([sample.image.offset for _, _, sample in rows], dtype=np.int64),
        np.array([sample.image.size for _, _, sample in rows], dtype=np.int64),
        np.concatenate([labels[part] for part in samples]),
        [printable(name) for _, name, _ in rows],
    )
    notes = [f"{num_others} samples of the shards have no image and are not used."] if num_others else []
    return index, notes


def _as_array(labels: list[int | str]) -> NDArray[Any]:
    """Numbers as int64; names as objects, since one long name would widen them all."""
    if isinstance(labels[0], int):
        return np.array(labels, dtype=np.int64)
    return np.array([class_name(str(label)) for label in labels], dtype=object)


def _samples(storage: Storage, file: StoredFile) -> Iterator[_Sample | None]:
    """The samples of a tar file; None for one without an image."""
    reader = ShardReader(storage, file)
    listed: list[Member] = []
    labels: dict[str, int | str | DataError | None] = {}
    for member in members(reader, file):
        if member.name.rpartition("/")[2].startswith("."):  # hidden, as ._a.jpg of macOS
            continue
        listed.append(member)
        suffix = _parted(member.name, last=True)[1]
        if suffix in _LABEL_SUFFIXES:  # read as they pass, for a far file is fetched from front to end
            try:
                labels[member.name] = _label(reader, file, member, suffix)
            except DataError as error:
                labels[member.name] = error
    seen: set[str] = set()
    key, fields = "", dict[str, Member]()
    for member, (this, suffix) in zip(listed, _keys([member.name for member in listed]), strict=True):
        if this != key:
            if fields:
                yield _sample(file, key, fields, labels)
            if this in seen:
                raise _bad(file, member, "its key was there before, with other members between")
            seen.add(this)
            key, fields = this, {}
        if suffix in fields:
            raise _bad(file, member, "its key and suffix are there twice")
        fields[suffix] = member
    if fields:
        yield _sample(file, key, fields, labels)


def _keys(names: Sequence[str]) -> list[tuple[str, str]]:
    """Key and suffix of each member.

    The convention parts them at the first dot: x.jpg, x.seg.png and x.cls are one sample. But width_0.1mm.png has a dot
    in its key. So it is the last dot where the part before the first one has no image of its own, or where the part
    before the last one has a label.
    """
    first = [_parted(name, last=False) for name in names]
    last = [_parted(name, last=True) for name in names]
    with_image = {key for key, suffix in first if f".{suffix}" in IMAGE_SUFFIXES}
    with_label = {key for key, suffix in last if suffix in _LABEL_SUFFIXES}
    known = {suffix for _, suffix in last if f".{suffix}" in IMAGE_SUFFIXES or suffix in _LABEL_SUFFIXES}

    def is_dotted(key: str, whole: str, suffix: str) -> bool:
        return suffix in known and (key not in with_image or whole in with_label)

    return [(long if is_dotted(short[0], *long) else short) for short, long in zip(first, last, strict=True)]


def _parted(name: str, last: bool) -> tuple[str, str]:
    folder, _, file = name.removeprefix("./").rpartition("/")
    stem, _, suffix = file.rpartition(".") if last and "." in file else file.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def _sample(
    file: StoredFile, key: str, fields: dict[str, Member], labels: Mapping[str, int | str | DataError | None]
) -> _Sample | None:
    images = [member for suffix, member in fields.items() if f".{suffix}" in IMAGE_SUFFIXES]
    if not images:
        return None
    if len(images) > 1:
        raise _bad(file, images[1], "its key has two images")
    for suffix in _LABEL_SUFFIXES:
        label = labels[fields[suffix].name] if suffix in fields else None
        if isinstance(label, DataError):
            raise label
        if label is not None:
            return _Sample(key, images[0], label)
    folder = key.rpartition("/")[0].rpartition("/")[2]
    if not folder:
        raise _bad(
            file, images[0], "it has no label: neither .cls nor .json beside it, nor a folder named as its class"
        )
    return _Sample(key, images[0], folder)


def _label(reader: ShardReader, file: StoredFile, member: Member, suffix: str) -> int | str | None:
    """A number or a class name; None for a JSON file that does not speak of one."""
    if member.size > _MOST_LABEL_BYTES:
        raise _bad(file, member, f"a label of {member.size} bytes")
    value: Any
    try:
        text = reader.peek(member.offset, member.size).decode("utf-8").strip()
        if suffix == "cls":
            value = int(text) if text.removeprefix("-").isdecimal() and len(text) < _MOST_DIGITS else text
        else:
            described = json.loads(text, parse_int=_whole_number)
            value = next((described[key] for key in _LABEL_KEYS if key in described), None)
            if value is None:
                return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _bad(file, member, f"no label can be read from it: {error}") from error
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or value == ""
        or (isinstance(value, str) and len(value) > _MOST_NAME)
        or not -(2**63) <= _number(value) < 2**63
    ):
        raise _bad(file, member, f"a label is a number or the name of a class, got {value!r:.60}")
    return value


def _is_long_number(label: int | str) -> bool:
    return isinstance(label, str) and len(label) >= _MOST_DIGITS and label.removeprefix("-").isdecimal()


def _whole_number(text: str) -> int | str:
    """A number of JSON; one that no label can be stays text, for Python refuses to convert thousands of digits."""
    return int(text) if len(text) < _MOST_DIGITS else text


def _number(value: int | str) -> int:
    return value if isinstance(value, int) else 0


def _bad(file: StoredFile, member: Member, problem: str) -> DataError:
    return DataError(
        f"Shard '{printable(file.name)}', member '{printable(member.name)}': {problem}.",
        hint="Expected are KEY.jpg and KEY.cls one after the other, as the WebDataset convention has it.",
    )


def _damaged(where: str, reason: str) -> DataError:
    return DataError(
        f"{printable(where)} is no index of shards: {reason}.", hint="Remove it: it is made again from the shards."
    )


def _read_whole(storage: Storage, file: StoredFile) -> bytes:
    try:
        return storage.read(file.name, 0, file.size)
    except OSError as error:
        raise DataError(f"{printable(file.name)} cannot be read: {error}.", hint="Is the place still there?") from error
