"""What becomes of an entity when messages about it come late, twice, or in any order.

The last timestamp wins, attribute by attribute: a last-writer-wins map (Shapiro et al., "A
comprehensive study of Convergent and Commutative Replicated Data Types", 2011). Whatever the order
in which the same messages are applied, and however often each, the outcome is the same.

- create: the entity begins anew; what was written before is gone.
- update: writes its attributes and leaves the others.
- delete: a tombstone; what was written before is gone, and an older message does not undo it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

Operation = Literal["create", "update", "delete"]


@dataclass(frozen=True)
class Entity:
    attributes: dict[str, Any] = field(default_factory=dict)
    written_at: dict[str, datetime] = field(default_factory=dict)
    # None is never: no moment is early enough to mean it, as a message may name any.
    cleared_at: datetime | None = None
    seen_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def is_deleted(self) -> bool:
        """At the same moment the delete wins."""
        if self.deleted_at is None or self.seen_at is None:
            return self.deleted_at is not None
        return self.deleted_at >= self.seen_at


@dataclass(frozen=True)
class Change:
    operation: Operation
    at: datetime
    attributes: dict[str, Any] = field(default_factory=dict)


def apply(entity: Entity, change: Change) -> Entity:
    """The entity after one more message. Commutative, associative and idempotent."""
    if change.operation == "delete":
        entity = replace(entity, deleted_at=_later(entity.deleted_at, change.at))
        return _cleared(entity, change.at, including=True)
    entity = replace(entity, seen_at=_later(entity.seen_at, change.at))
    if change.operation == "create":
        entity = _cleared(entity, change.at, including=False)
    written = {
        name: (change.at, value)
        for name, value in change.attributes.items()
        if _survives(entity, change.at) and _wins(entity, name, change.at, value)
    }
    return replace(
        entity,
        attributes={**entity.attributes, **{name: value for name, (_, value) in written.items()}},
        written_at={**entity.written_at, **{name: at for name, (at, _) in written.items()}},
    )


def _cleared(entity: Entity, at: datetime, *, including: bool) -> Entity:
    """Without what was written before `at`; a delete also takes what was written at that moment."""
    cleared = replace(entity, cleared_at=_later(entity.cleared_at, at))
    kept = {
        name: written
        for name, written in entity.written_at.items()
        if _survives(cleared, written) and (written != at or not including)
    }
    return replace(
        cleared,
        attributes={name: value for name, value in entity.attributes.items() if name in kept},
        written_at=kept,
    )


def _survives(entity: Entity, written: datetime) -> bool:
    is_kept = entity.cleared_at is None or written >= entity.cleared_at
    return is_kept and (entity.deleted_at is None or written > entity.deleted_at)


def _later(known: datetime | None, at: datetime) -> datetime:
    return at if known is None else max(known, at)


def _wins(entity: Entity, name: str, at: datetime, value: Any) -> bool:
    """Of two writes at the same moment the greater text wins: any rule will do that all share."""
    known = entity.written_at.get(name)
    if known is None or at != known:
        return known is None or at > known
    return _text(value) > _text(entity.attributes[name])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
