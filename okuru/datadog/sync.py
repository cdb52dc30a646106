"""Make Datadog's objects what the files say: create, update, or leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from okuru.datadog.api import Datadog, Found
from okuru.datadog.files import Definition, Kind

Action = Literal["create", "update", "unchanged", "extra", "delete"]
#: Lists whose order says nothing.
UNORDERED = frozenset({"tags"})


@dataclass(frozen=True)
class Change:
    """One field that differs."""

    path: str
    is_now: Any
    shall_be: Any


@dataclass(frozen=True)
class Step:
    """What was done, or in a dry run would be done, with one object."""

    kind: Kind
    key: str
    action: Action
    id: Any = None
    changes: list[Change] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def synchronise(
    datadog: Datadog, definitions: list[Definition], *, dry_run: bool, prune: bool
) -> Iterator[Step]:
    """Yield each step once it is done.

    `extra` is an object with our mark that no file asks for, or a second one with the same key;
    it is deleted only if `prune` is asked for.
    """
    there: dict[tuple[Kind, str], list[Found]] = {}
    for found in datadog.ours():
        there.setdefault((found.kind, found.key), []).append(found)
    ids: dict[str, str] = {}
    for definition in definitions:
        twins = there.get((definition.kind, definition.key), [])
        current = twins.pop(0) if twins else None
        wanted = definition.filled(ids)
        step = _step(wanted, current)
        if not dry_run and step.action == "create":
            step = Step(step.kind, step.key, "create", datadog.create(wanted), step.changes)
        elif not dry_run and step.action == "update" and current:
            datadog.update(current, wanted)
        if definition.kind == "slo":
            ids[f"slo:{definition.key}"] = step.id or f"<{definition.key}, once it is made>"
        yield step
    # What refers to objectives goes before them.
    extra = sorted((each for left in there.values() for each in left), key=lambda each: each.kind)
    for found in extra:
        if prune and not dry_run:
            datadog.delete(found)
        yield Step(found.kind, found.key, "delete" if prune else "extra", found.id)


def _step(wanted: Definition, current: Found | None) -> Step:
    if current is None:
        return Step(wanted.kind, wanted.key, "create")
    changes = list(differences(wanted.body, current.body))
    action: Action = "update" if changes else "unchanged"
    return Step(wanted.kind, wanted.key, action, current.id, changes)


def differences(wanted: Any, current: Any, path: str = "") -> Iterator[Change]:
    """Each field of `wanted` that `current` does not have so.

    Datadog answers with more than it was given (ids, defaults, who and when): what the file does
    not speak of is not compared.
    """
    if isinstance(wanted, dict) and isinstance(current, dict):
        for name, value in wanted.items():
            here = f"{path}.{name}".removeprefix(".")
            if name in UNORDERED:
                if _in_order(value) != _in_order(current.get(name)):
                    yield Change(here, current.get(name), value)
            else:
                yield from differences(value, current.get(name), here)
    elif isinstance(wanted, list) and isinstance(current, list) and len(wanted) == len(current):
        for index, value in enumerate(wanted):
            yield from differences(value, current[index], f"{path}[{index}]")
    elif wanted != current:
        yield Change(path, current, wanted)


def _in_order(value: Any) -> Any:
    return sorted(value, key=repr) if isinstance(value, list) else value
