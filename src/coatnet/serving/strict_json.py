"""JSON from the network: refused before it is parsed if parsing or checking it could take long."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from coatnet.serving.problems import Problem, ProblemError

STRUCTURE = (b",", b"[", b"{")
"""Every value of a JSON document but the first comes after one of these, and none of them is in base64."""
LONGEST_NUMBER = 100
"""Characters of a number: a float64 in decimal needs 24 at most. Python reads long integers in quadratic time."""
LARGE_BYTES = 65_536
"""A body above this is parsed in a thread; below, the thread would cost more than the parsing."""

Body = TypeVar("Body", bound=BaseModel)


async def parse(body: bytes, model: type[Body], most_values: int) -> Body:
    """The body as a model.

    Args:
        body: UTF-8.
        model: what it should be.
        most_values: values that it may have; the work for the rest, strings, is that of copying them.

    Raises:
        ProblemError: it is none; the first reason.
    """
    if sum(body.count(each) for each in STRUCTURE) > most_values:
        raise ProblemError(Problem(413, "too_many_values", f"The JSON has more than {most_values} values."))
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(_parse, body, model)
    return _parse(body, model)


def _parse(body: bytes, model: type[Body]) -> Body:
    try:
        found = json.loads(
            body.decode(),
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
        if b"\\u" in body:  # half of a surrogate pair can be escaped in JSON, but no answer could say it again
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise _invalid("body", "The JSON is nested too deeply.") from None
    except ValueError as error:
        raise _invalid("body", f"This is no JSON: {error}") from None
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _invalid(".".join(("body", *map(str, first["loc"]))), first["msg"]) from None


def _invalid(where: str, what: str) -> ProblemError:
    return ProblemError(Problem(422, "invalid", f"{where:.200}: {what:.200}"))


def _integer(text: str) -> int:
    return int(_short(text))


def _float(text: str) -> float:
    number = float(_short(text))
    if abs(number) == float("inf"):
        raise ValueError("a number is above the largest float64")
    return number


def _short(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number has {len(text)} characters, at most {LONGEST_NUMBER} are read")
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
