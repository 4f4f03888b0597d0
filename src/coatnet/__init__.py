"""CoAtNet: image classification with hybrids of convolution and attention.

Every public name is imported when it is first used, so that `import coatnet` is quick. timm finds the family
once both are imported, in either order.
"""

import importlib
from typing import TYPE_CHECKING

from coatnet.model.timm_hook import register_with_timm
from coatnet.version import __version__

if TYPE_CHECKING:
    from coatnet.classifier import Classifier as Classifier
    from coatnet.classifier import Prediction as Prediction
    from coatnet.data.images import ImageError as ImageError
    from coatnet.data.preprocess import Preprocess as Preprocess
    from coatnet.data.sources import DataConfig as DataConfig
    from coatnet.errors import CoatnetError as CoatnetError
    from coatnet.errors import ConfigError as ConfigError
    from coatnet.errors import DataError as DataError
    from coatnet.errors import MissingPartError as MissingPartError
    from coatnet.errors import ModelFileError as ModelFileError
    from coatnet.errors import QualityError as QualityError
    from coatnet.errors import ResourceError as ResourceError
    from coatnet.errors import Stopped as Stopped
    from coatnet.evaluation.evaluate import evaluate as evaluate
    from coatnet.evaluation.metrics import Evaluation as Evaluation
    from coatnet.explanation.explain import Explanation as Explanation
    from coatnet.explanation.explain import explain as explain
    from coatnet.model.config import CoAtNetConfig as CoAtNetConfig
    from coatnet.model.family import create_model as create_model
    from coatnet.training import recipes as recipes
    from coatnet.training.config import TrainConfig as TrainConfig
    from coatnet.training.loop import Run as Run
    from coatnet.training.loop import resume as resume
    from coatnet.training.loop import train as train

_HOMES = {
    "classifier": ("Classifier", "Prediction"),
    "data.images": ("ImageError",),
    "data.preprocess": ("Preprocess",),
    "data.sources": ("DataConfig",),
    "errors": (
        "CoatnetError",
        "ConfigError",
        "DataError",
        "MissingPartError",
        "ModelFileError",
        "QualityError",
        "ResourceError",
        "Stopped",
    ),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.metrics": ("Evaluation",),
    "explanation.explain": ("Explanation", "explain"),
    "model.config": ("CoAtNetConfig",),
    "model.family": ("create_model",),
    "training.config": ("TrainConfig",),
    "training.loop": ("Run", "resume", "train"),
}
_HOME_OF = {name: f"coatnet.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, "__version__", "recipes"]  # pyright: ignore


def __getattr__(name: str) -> object:
    if name == "recipes":
        return importlib.import_module("coatnet.training.recipes")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'coatnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_timm()
