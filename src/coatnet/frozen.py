"""The base of every config object and of every JSON file of ours: frozen, validated, no unknown keys."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """An immutable, validated record. An unknown key is an error that names its path."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated anew (pydantic's `model_copy` does not validate)."""
        unchanged = {name: getattr(self, name) for name in type(self).model_fields if name not in changes}
        return type(self)(**unchanged, **changes)


def explain(error: ValidationError) -> str:
    """The first problem of a failed validation in one line: where, what was got, what was expected."""
    problem = error.errors(include_url=False)[0]
    parts = (str(part) for part in problem["loc"])
    where = ".".join(part for part in parts if not part.startswith("<"))  # tags of unions are no part of the path
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] == "value_error" else f", got {problem['input']!r:.60}"
    return f"{where}: {message}{got}" if where else f"{message}{got}"
