"""What the record of published weights means for a classifier: its preprocessing and class names, never a default."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import ValidationError

from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, ModelFileError
from coatnet.frozen import explain
from coatnet.model.published import Published, is_published_name

# timm's word for each way to resize, and ours.
_RESIZE = {"center": "crop", "squash": "stretch", "border": "pad"}


def preprocess_of(record: Published) -> Preprocess:
    """How images become the input that the weights were trained for.

    Raises:
        ConfigError: in a way that coatnet does not have.
    """
    try:
        return Preprocess.model_validate(
            {
                "image_size": record.image_size,
                "resize": _RESIZE[record.crop_mode],
                "crop_fraction": record.crop_pct,
                "interpolation": record.interpolation,
                "mean": record.mean,
                "std": record.std,
            }
        )
    except ValidationError as error:
        raise ConfigError(
            f"the preprocessing of {record.architecture} is none that coatnet has: {explain(error)}",
            "choose other weights",
        ) from None


def licence_of(source: str) -> str:
    """The licence of published weights as timm's registry gives it; "" for anything else. Nothing is downloaded."""
    if not is_published_name(source):
        return ""
    try:
        return Published.registered(source).license or ""
    except (ConfigError, ValidationError):  # weights that this timm does not know
        return ""


def class_names_of(record: Published) -> tuple[str, ...]:
    """The class names: the record's own, else those of the ImageNet that has so many classes, else numbers.

    A WordNet synset is called by its words; words that several have are told apart by the synset.

    Raises:
        ModelFileError: the record names another number of classes.
    """
    codes, words = _codes_and_words(record)
    if len(codes) != record.num_classes:
        raise ModelFileError(
            f"the record of {record.architecture} has {len(codes)} class names for {record.num_classes} classes",
            "take the config.json that came with the weights",
        )
    counts = Counter(words)
    return tuple(word if counts[word] == 1 else f"{word} ({code})" for code, word in zip(codes, words, strict=True))


def _codes_and_words(record: Published) -> tuple[list[str], list[str]]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if record.label_names:
        codes = list(record.label_names)
        return codes, [(record.label_descriptions or {}).get(code, code) for code in codes]
    subset = infer_imagenet_subset({"num_classes": record.num_classes})
    if subset is None:
        numbers = [str(index) for index in range(record.num_classes)]
        return numbers, numbers
    information: Any = ImageNetInfo(subset)
    return information.label_names(), information.label_descriptions()
