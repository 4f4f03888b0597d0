"""README.md of a classifier folder: a short model card."""

import json
from collections.abc import Sequence

from coatnet.data.preprocess import Preprocess
from coatnet.model.config import CoAtNetConfig
from coatnet.model.guests import GuestConfig
from coatnet.version import __version__

CARD = """\
# Image classifier

{network}, with {num_classes} classes, written by coatnet {version}.
The whole configuration is in `config.json`.

## Use

```python
import coatnet

classifier = coatnet.Classifier.load("path/to/this/folder")
print(classifier.predict("image.jpg"))
```

```
coatnet predict path/to/this/folder image.jpg
```

## Preprocessing

Images are turned upright and made RGB, then resized and normalised; `Classifier` does all of it.

| setting | value |
|---|---|
{settings}

## Classes

{labels}
"""


ARTEFACT_CARD = """\
# Image classifier for {runtime}

{num_classes} classes, images of {sizes} pixels, written by coatnet {version}. Preprocessing is in `preprocess.json`,
class names are in `labels.json`, the files of the network and their checksums in `artefact.json`.

```python
import coatnet

classifier = coatnet.Classifier.load("path/to/this/folder")
print(classifier.predict("image.jpg"))
```
"""
PIXELS_CARD = """
For programs without coatnet: `pixels-HEIGHTxWIDTH` takes (B, height, width, 3) uint8 RGB that has this size already,
and gives (B, classes) probabilities in the order of `labels.json`.
"""


def artefact_card(kind: str, class_names: Sequence[str], sizes: Sequence[tuple[int, int]], pixels: bool) -> str:
    """README.md of an exported artefact; `pixels` tells of the graphs from pixels."""
    runtime = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch"}[kind]
    listed = ", ".join(f"{height} x {width}" for height, width in sizes)
    card = ARTEFACT_CARD.format(runtime=runtime, num_classes=len(class_names), sizes=listed, version=__version__)
    return card + PIXELS_CARD if pixels else card


def model_card(config: CoAtNetConfig | GuestConfig, preprocess: Preprocess, class_names: Sequence[str]) -> str:
    """README.md of a classifier folder."""
    listed = "\n".join(f"- {json.dumps(name, ensure_ascii=False)}" for name in class_names[:100])
    more = f"\n- and {len(class_names) - 100} more in `labels.json`" if len(class_names) > 100 else ""
    settings = "\n".join(f"| {name} | {value} |" for name, value in preprocess.model_dump().items())
    return CARD.format(
        network=_network(config),
        num_classes=len(class_names),
        settings=settings,
        labels=listed + more,
        version=__version__,
    )


def _network(config: CoAtNetConfig | GuestConfig) -> str:
    if isinstance(config, GuestConfig):
        library, _, name = config.guest.partition("/")
        return f"{library}'s `{name}` for images of {config.image_size} x {config.image_size} pixels"
    depths = ", ".join(str(stage.depth) for stage in config.stages)
    widths = ", ".join(str(stage.width) for stage in config.stages)
    return (
        f"A CoAtNet (arXiv 2106.04803) with the layout {config.layout}, blocks per stage {depths}, "
        f"channels per stage {widths}"
    )
