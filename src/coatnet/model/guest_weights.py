"""A guest with weights from a file: read by our own gate, seen to be whole, and fitted by timm's filters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coatnet.errors import CoatnetError, ConfigError, ModelFileError
from coatnet.model.config import changed
from coatnet.model.guests import PREFIX, GuestConfig, build, check_guest, finish_guest, first_line, guest
from coatnet.quiet import ignore_warnings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coatnet.model.published import Published

Shapes = dict[str, tuple[int, ...]]


def load_guest(record: Published, weights: Path, changes: Mapping[str, object]) -> nn.Module:
    """The network of a record with its weights; nothing is ever loaded partly.

    timm's filters resize tables of positions, and translate the names of other libraries.

    Args:
        record: of the weights.
        weights: the file.
        changes: fields of the config to set otherwise; another number of classes gets a fresh head.

    Raises:
        ConfigError: the changes do not validate, or the weights have no classes and none are asked for.
        ModelFileError: the file is damaged, or of another network.
    """
    from coatnet.model.tensors import read_tensors
    from coatnet.model.weights import mismatch

    if not record.num_classes and "num_classes" not in changes:
        raise ConfigError(
            f"these weights of {record.architecture} have no classes", "give num_classes, and train the fresh head"
        )
    own = guest(PREFIX + record.architecture).replace(image_size=record.image_size)
    config = changed(own, {"num_classes": record.num_classes, **changes})
    if config.image_size != record.image_size:
        check_guest(config)
    tensors = read_tensors(weights)
    expected, found = _shapes_of(own, record), _shapes(tensors)
    hint = f"it should hold weights of {own.guest} for {own.image_size} px"
    if _is_wrong(expected, found, headless=not record.num_classes):
        raise ModelFileError(mismatch(expected, found, str(weights)), hint)
    # With the weights' own head first: only then is timm strict about names.
    source = {"num_classes": record.num_classes, "input_size": record.input_size, "state_dict": tensors}
    try:
        with ignore_warnings():  # of how timm resizes tables: no user could mend it
            module: Any = build(config, num_classes=record.num_classes, pretrained=True, pretrained_cfg_overlay=source)
    except (CoatnetError, MemoryError):
        raise
    except Exception as error:  # each architecture's filter fails in its own way
        misfit = mismatch(expected, found, str(weights)) if expected.keys() != found.keys() else first_line(error)
        raise ModelFileError(misfit, hint) from None
    del module.pretrained_cfg["state_dict"]  # a second copy
    if config.num_classes != record.num_classes:
        module.reset_classifier(config.num_classes)
    return finish_guest(module, config)


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name, less the counters of batch norms: old files lack them, and nothing here reads them."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _shapes_of(own: GuestConfig, record: Published) -> Shapes:
    """What the file should hold.

    Raises:
        ModelFileError: the record's numbers make no network.
    """
    import torch

    try:
        with torch.device("meta"):
            return _shapes(build(own, num_classes=record.num_classes).state_dict())
    except Exception as error:  # each architecture fails in its own way
        raise ModelFileError(
            f"the record of {own.guest} makes no network: {first_line(error)}",
            "take the config.json that came with the weights",
        ) from None


def _is_wrong(expected: Shapes, found: Shapes, headless: bool) -> bool:
    """Whether a file with the network's own names has something missing, or of another shape.

    timm's filters would make some of that fit in silence: they resize tables and reshape whatever has the right number
    of elements. Files with other names are theirs to translate; what comes out is loaded strictly.
    """
    if found.keys() - expected.keys():
        return False
    return any(
        # Weights without classes may lack the norm that stands in the head.
        _dense(found[name]) != _dense(shape) if name in found else not (headless and name.startswith("head."))
        for name, shape in expected.items()
    )


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a kernel; a 1x1 convolution is the same as a dense layer."""
    return shape[:2] if shape[2:] == (1, 1) else shape
