"""Read what a query of Datadog asks for: its metrics with their tags, or the fields of a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SERIES = re.compile(r"(?:avg|sum|min|max):([a-z0-9_.]+)\{([^}]*)\}(?:\s+by\s+\{([^}]*)\})?")
TAG = re.compile(r"(?<![\w.$-])!?([a-z_-]+)(?=:| IN )")
ALL = re.compile(r"\b(?:aws|okuru)\.[a-z0-9_.]+[a-z0-9](?=\{)")


@dataclass(frozen=True)
class Series:
    """One metric of a query."""

    metric: str
    filter: str
    """Between its braces."""
    tags: frozenset[str]
    """Those that it filters or groups by."""


def series(query: str) -> list[Series]:
    """Every metric of the query; fails if one cannot be read."""
    found = [
        Series(
            metric,
            scope,
            frozenset(TAG.findall(scope)) | frozenset(filter(None, (by or "").split(","))),
        )
        for metric, scope, by in SERIES.findall(query)
    ]
    assert len(found) == len(ALL.findall(query)), f"cannot read all of {query}"
    return found


def strings(value: Any, *keys: str) -> Iterator[str]:
    """Each string that stands under one of the keys, however deep."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name in keys and isinstance(each, str):
                yield each
            else:
                yield from strings(each, *keys)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, *keys)


@dataclass(frozen=True)
class Term:
    """`field:value`, `field:(one OR another)` or `field:*`, all of which a log line must meet."""

    field: str
    values: frozenset[str]

    def meets(self, line: dict[str, Any]) -> bool:
        """Whether a line is as the term says."""
        value = line.get(self.field)
        return value is not None and (self.values == {"*"} or str(value) in self.values)


def terms(query: str) -> list[Term]:
    """The terms of a search of logs, but for template variables and `env`, which is a tag."""
    found = re.findall(r"@?([a-z_]+):(\([^)]*\)|\S+)", query)
    read = [Term(name, frozenset(value.strip("()").split(" OR "))) for name, value in found]
    assert len(read) == query.count(":"), f"cannot read all of {query}"
    return [each for each in read if each.field != "env"]


def search_of(log_monitor: str) -> str:
    """What a log monitor searches for."""
    found = re.match(r'logs\("([^"]+)"\)', log_monitor)
    assert found, log_monitor
    return found[1]
