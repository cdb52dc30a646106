"""JSON from outside, with one meaning or none: RFC 8259 leaves more open than that."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from app.errors import Invalid

#: Deeper than anything that is taken, shallower than what troubles a parser.
MAX_DEPTH = 32


def parse(data: bytes, *, name: str = "the body") -> Any:
    """One JSON document. `name` is what the error calls it.

    Raises:
        app.errors.Invalid: it is none, or one whose meaning depends on who reads it.
    """
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
        )
        _check_depth(document)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{name} is not valid JSON: {_why(error)}") from None
    return document


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if type(error) is _AmbiguousError else "a number is too long"


class _AmbiguousError(ValueError):
    pass


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise _AmbiguousError("a key stands twice in one object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise _AmbiguousError(f"{name} is not a JSON number")


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise _AmbiguousError("it is nested too deeply")
