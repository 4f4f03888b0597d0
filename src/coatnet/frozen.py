"""The base of every config object and of every JSON file of ours: frozen, validated, no unknown keys."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable, validated record. An unknown key is an error that names its path."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated anew (pydantic's `model_copy` does not validate)."""
        unchanged = {name: getattr(self, name) for name in type(self).model_fields if name not in changes}
        return type(self)(**unchanged, **changes)
