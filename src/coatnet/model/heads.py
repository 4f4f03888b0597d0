"""The classes layer when the classes change: kept, permuted or cut by name, or new. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import ModelConfig
from coatnet.model.guests import classifier_layers

if TYPE_CHECKING:
    from torch import Tensor


class Carried(NamedTuple):
    """What becomes of the classes layer of a network when it gets other classes."""

    kind: Literal["kept", "permuted", "cut", "new"]
    """kept: the same names in the same order. permuted: in another order. cut: some are left out. new: a name that the
    network does not know, or names that nobody knows: the layer starts anew."""
    rows: tuple[int, ...] = ()
    """For each new class the row of the old layer that it takes; empty for a new layer."""

    @property
    def words(self) -> str:
        """For people."""
        return {
            "kept": "kept, the classes are the same",
            "permuted": "permuted, the classes are the same in another order",
            "cut": f"cut, to {len(self.rows)} of its classes",
            "new": "new, the classes are others",
        }[self.kind]


def carry_classes(old: Sequence[str] | None, new: Sequence[str]) -> Carried:
    """How the classes layer is carried over, by name.

    Args:
        old: class names of the network; None where they are not known.
        new: class names that it gets.
    """
    row = {name: index for index, name in enumerate(old or ())}
    if not row or not set(new) <= row.keys():
        return Carried("new")
    rows = tuple(row[name] for name in new)
    if len(rows) < len(row):
        return Carried("cut", rows)
    return Carried("kept" if rows == tuple(range(len(row))) else "permuted", rows)


def classes_layers(config: ModelConfig) -> tuple[str, ...]:
    """Names of the layers whose weight and bias have a row for each class: one; several in some guests."""
    if isinstance(config, CoAtNetConfig):
        return ("head.classes",)
    return classifier_layers(config)


def with_classes(
    tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor], carried: Carried, layers: Sequence[str]
) -> dict[str, Tensor]:
    """The state of a network with other classes.

    Args:
        tensors: of the network as it was.
        fresh: of a new network with the other classes: where its classes layers come from if they are new.
        carried: see `carry_classes`.
        layers: see `classes_layers`.
    """
    names = [name for name in fresh if name.rpartition(".")[0] in layers]
    if carried.kind == "new":
        return {**tensors, **{name: fresh[name] for name in names}}
    return {**tensors, **{name: tensors[name][list(carried.rows)] for name in names}}
