"""Published weights of guests: where they are, what their record says of them, and the network that holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, ValidationError

from coatnet.errors import CoatnetError, ConfigError, MissingPartError, ModelFileError
from coatnet.frozen import Frozen, explain
from coatnet.model.catalogue import CATALOGUE, Channels
from coatnet.model.config import SMALLEST_IMAGE
from coatnet.model.guest_weights import load_guest
from coatnet.model.guests import PREFIX, registered
from coatnet.model.hub import RECORD, Files, NotOnHubError, cache_is_empty, hub_files, local_files

if TYPE_CHECKING:
    from torch import nn

MAX_RECORD_BYTES = 16_000_000  # the names and descriptions of ImageNet-21K's classes take 3 MB

# Twice the largest in timm's registry, 1024.
Side = Annotated[int, Field(ge=SMALLEST_IMAGE, le=2048)]


class Published(Frozen):
    """What the record of published weights says: `config.json` beside them, else timm's registry."""

    architecture: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    """timm's name of the network."""
    num_classes: NonNegativeInt
    """Logits; 0 for weights without a head."""
    input_size: tuple[Literal[3], Side, Side]
    """Channels, height and width of the images that the weights were trained with."""
    mean: Channels
    """Of red, green and blue on the scale 0..1."""
    std: Channels
    """Standard deviation of red, green and blue on the scale 0..1."""
    interpolation: str
    """Filter that resizes images."""
    crop_pct: float = Field(gt=0)
    """Share of the resized image that the crop keeps."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """center: resize the shorter side and cut. squash: lose the aspect ratio. border: fill up. The oldest records do
    not say it: there was only `center`."""
    license: str | None = None
    """Of the weights, as the record says it."""
    label_names: tuple[str, ...] | None = None
    """Class names in the order of the logits."""
    label_descriptions: dict[str, str] | None = None
    """What a class name means, where it is a code such as a WordNet synset."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parse a `config.json` in timm's form; what is not asked for in it is not looked at.

        Raises:
            ModelFileError: it is no such file.
        """
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise ModelFileError(f"{path} has {path.stat().st_size} bytes; at most {MAX_RECORD_BYTES} are read")
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{path} is not JSON: {error}", "copy or download it again") from None
        if not isinstance(content, dict):
            raise ModelFileError(f"{path} is not a record of weights", "take the config.json that came with them")
        inner = content.get("pretrained_cfg", {})
        # The outer values are newer: timm writes a network's own number of classes there.
        flat = {**(inner if isinstance(inner, dict) else {}), **content}
        try:
            return cls.model_validate_json(json.dumps(_own_fields(flat)))
        except ValidationError as error:
            raise ModelFileError(f"{path}: {explain(error)}", "take the config.json that came with them") from None

    @classmethod
    def registered(cls, name: str) -> Self:
        """What timm's registry says of "timm/ARCHITECTURE.TAG".

        Raises:
            ConfigError: timm knows no such weights.
        """
        record = registered(name)
        return cls(**_own_fields({**vars(record), "architecture": name.removeprefix(PREFIX).partition(".")[0]}))

    @property
    def image_size(self) -> int:
        """Height and width, pixels.

        Raises:
            ConfigError: the images are not square.
        """
        _, height, width = self.input_size
        if height != width:
            raise ConfigError(
                f"{self.architecture} is made for images of {height} x {width} pixels", "coatnet's networks see squares"
            )
        return height


def _own_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `Published` has a field for, less nulls."""
    return {name: content[name] for name in Published.model_fields if content.get(name) is not None}


def is_published_name(text: str) -> bool:
    """Whether this is a name of published weights, as "timm/resnet50.a1_in1k" or "timm/resnet50"."""
    return re.fullmatch(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", text) is not None


def find_published(name: str, place: Path | None = None) -> tuple[Published, Files]:
    """The files of published weights, and their record.

    Args:
        name: "timm/ARCHITECTURE.TAG"; without a tag, timm's first one. "" takes the architecture from the record.
        place: a folder or a file that holds the weights, instead of the hub.

    Raises:
        ConfigError: timm knows no such name.
        MissingPartError: the weights are not here, and the hub does not answer.
        ModelFileError: nothing is at `place`, or the record is damaged or of another network.
    """
    if name and not is_published_name(name):
        raise ConfigError(f"{name!r} is not a name of published weights", "write it as timm/resnet50.a1_in1k")
    files = local_files(place) if place else _hub_files(name)
    if files.record is None:
        if not name:
            raise ModelFileError(f"{place} has no {RECORD}", "put the record there that came with the weights")
        return Published.registered(name), files
    return _own_record(files.record, name), files


def _own_record(path: Path, name: str) -> Published:
    """The record beside the weights, which must be that of `name`, if there is a name.

    Raises:
        ModelFileError: it is damaged, or of another network.
    """
    record = Published.read(path)
    architecture = name.removeprefix(PREFIX).partition(".")[0]
    if name and record.architecture != architecture:
        raise ModelFileError(
            f"{path} is the record of {record.architecture}, not of {architecture}",
            f"ask for {PREFIX}{record.architecture}, or give the right files",
        )
    if not name:
        try:
            registered(PREFIX + record.architecture)
        except ConfigError as error:
            raise ModelFileError(f"{path}: {error.message}", error.hint) from None
    return record


def _hub_files(name: str) -> Files:
    """The files of a name on the hub.

    Raises:
        ConfigError: timm knows no such weights, or they are not on the hub.
        MissingPartError: the weights are not here, and the hub does not answer.
    """
    tagged = name if "." in name else _with_tag(name)
    failure: CoatnetError
    try:
        return hub_files(tagged)
    except NotOnHubError:
        failure = ConfigError(f"the weights {tagged} are not on the hub", "download them, and give their path")
    except MissingPartError as error:
        if tagged in CATALOGUE or cache_is_empty():  # what is asked next takes timm seconds to answer
            raise
        failure = error
    elsewhere = registered(tagged).hf_hub_id
    if not elsewhere or elsewhere == tagged:
        raise failure
    # These live under another name, beside a record for another architecture or library.
    return hub_files(elsewhere)._replace(record=None)


def _with_tag(name: str) -> str:
    """The name with its first tag: from our own list if it stands there, which waits for no other import.

    Raises:
        ConfigError: timm knows no such name, or no weights of it.
    """
    listed = [tagged for tagged in CATALOGUE if tagged.startswith(name + ".")]
    if listed:
        return max(listed, key=lambda tagged: CATALOGUE[tagged].top1 or 0)  # timm's first one, too
    entry = registered(name)
    if not entry.has_weights:
        raise ConfigError(f"no weights of {name} are published", "choose others of timm.list_pretrained()")
    return f"{name}.{entry.tag}"


def create_published(name: str, place: Path | None = None, **changes: object) -> nn.Module:
    """A guest with published weights; another number of classes gets a fresh head.

    Args:
        name: see `find_published`.
        place: see `find_published`.
        changes: fields of its config to set otherwise; tables of positions are resized for another `image_size`.

    Raises:
        CoatnetError: see `find_published` and `load_guest`.
    """
    record, files = find_published(name, place)
    return load_guest(record, files.weights, changes)
