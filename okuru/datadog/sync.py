"""Make Datadog's objects what the files say: create, update, or leave alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import click

from okuru.datadog.api import Datadog, Found
from okuru.datadog.files import Definition, Kind
from okuru.datadog.foreign import one_line

Action = Literal["create", "update", "unchanged", "skipped", "extra", "twin", "delete"]
#: Lists whose order says nothing.
UNORDERED = frozenset({"tags"})
#: Whom a monitor's message tells; the @ of an address of mail or of a link is another.
_ADDRESS = re.compile(r"(?<![\w.+/-])@[\w.+-]+")

There = dict[tuple[Kind, str], list[Found]]


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
    datadog: Datadog,
    definitions: list[Definition],
    *,
    files: Set[tuple[Kind, str]],
    drop: bool,
    dry_run: bool,
    prune: bool,
) -> Iterator[Step]:
    """Yield each step once it is done.

    `skipped` is an object whose file was not asked for, `extra` one that has none, `twin` a younger
    one with the same key as another. The last two are deleted only if `prune` is asked for.

    Args:
        files: what has a file, whether it is among the definitions or not.
        drop: monitors may lose whom they tell.
    """
    there = _grouped(datadog.ours())
    if not drop:
        _refuse_to_drop(definitions, there)
    ids: dict[str, str] = {}
    created = False
    for definition in definitions:
        current = next(iter(there.get((definition.kind, definition.key), [])), None)
        wanted = definition.filled(ids)
        step = _step(wanted, current)
        if not dry_run and step.action == "create":
            step = Step(step.kind, step.key, "create", datadog.create(wanted), step.changes)
            created = True
        elif not dry_run and step.action == "update" and current:
            datadog.update(current, wanted)
        if definition.kind == "slo":
            ids[f"slo:{definition.key}"] = step.id or f"<{definition.key}, once it is made>"
        yield step
    asked_for = {(each.kind, each.key) for each in definitions}
    for name in sorted(there.keys() & files - asked_for):
        yield Step(*name, "skipped", there[name][0].id)
    extra = [each for name in sorted(there.keys() - files) for each in there[name]]
    twins = _twins(there, files)
    if prune:
        # What refers to objectives goes before them.
        for found in sorted([*extra, *twins], key=lambda each: each.kind):
            if not dry_run:
                datadog.delete(found)
            yield Step(found.kind, found.key, "delete", found.id)
        extra = twins = []
    if created:
        # Another run may have found nothing at the same moment: the later of both sees it here.
        twins = _twins(_grouped(datadog.ours()), files)
    for found in extra:
        yield Step(found.kind, found.key, "extra", found.id)
    for found in twins:
        yield Step(found.kind, found.key, "twin", found.id)


def _grouped(ours: Iterable[Found]) -> There:
    there: There = {}
    for found in sorted(ours, key=lambda each: each.age):
        there.setdefault((found.kind, found.key), []).append(found)
    return there


def _twins(there: There, files: Set[tuple[Kind, str]]) -> list[Found]:
    """All but the oldest of each; without a file they are extra, every one."""
    return [each for name in sorted(there.keys() & files) for each in there[name][1:]]


def _refuse_to_drop(definitions: list[Definition], there: There) -> None:
    told: set[str] = set()
    keys = []
    for definition in definitions:
        for found in there.get((definition.kind, definition.key), [])[:1]:
            now, then = (
                set(_ADDRESS.findall(str(body.get("message"))))
                for body in (found.body, definition.body)
            )
            if definition.kind == "monitor" and now - then:
                told |= now - then
                keys.append(definition.key)
    if keys:
        whom = one_line(" ".join(sorted(told)))
        raise click.ClickException(
            f"{', '.join(keys)} would no longer tell {whom}: give --notify with whom they shall"
            " tell, or --notify '' so that they tell nobody"
        )


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
