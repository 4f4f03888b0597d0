"""Puts the family into timm's registry as soon as somebody imports timm; imports neither timm nor torch itself.

timm finds networks only among those that are registered, and has no entry points for packages that bring more. So the
import of `timm.models`, if it comes after that of coatnet, is followed by ours.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_REGISTRY = "timm.models"


def register_with_timm() -> None:
    """Make `timm.create_model` find the family: at once if timm is imported, else when it is."""
    if _REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, _RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())


def _register() -> None:
    importlib.import_module("coatnet.model.timm_models")


class _RegistryFinder(importlib.abc.MetaPathFinder):
    """Waits for the import of timm's registry, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find; for timm's registry with our registration after it."""
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        # The loader itself stays: others ask the module's loader for its source and its data.
        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
