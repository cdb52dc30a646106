"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): one effect and one answer a key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.errors import Conflict, IdempotencyKeyReused
from app.idempotency.models import IdempotencyKey

#: How long a key is kept, where the domain does not keep it for ever.
LIFETIME = timedelta(hours=24)


@dataclass(frozen=True)
class Answer:
    body: dict[str, Any]
    replayed: bool


def once(
    session: Session,
    *,
    account_id: UUID,
    scope: str,
    key: str | None,
    request: Mapping[str, Any],
    answer: Callable[[], dict[str, Any]],
) -> Answer:
    """Call `answer` unless this key was answered before; then give that answer again.

    An advisory lock of the transaction stands for "still running": it needs no row that a crash
    could leave behind, and it is gone with the connection.

    Args:
        scope: the operation, such as "POST /gifts": keys of different operations do not meet.
        key: None means that the caller does not mind doing it twice.
        request: the validated body. Another body under the same key is a mistake of the caller.

    Raises:
        Conflict: the first request with this key is still running.
        IdempotencyKeyReused: the key was used with another body.
    """
    if key is None:
        return Answer(answer(), replayed=False)
    lock = func.hashtextextended(f"{account_id} {scope} {key}", 0)
    if not session.execute(select(func.pg_try_advisory_xact_lock(lock))).scalar_one():
        raise Conflict("a request with this Idempotency-Key is still running")
    place = {"account_id": account_id, "scope": scope, "key": key}
    fingerprint = _fingerprint(request)
    known = session.execute(
        select(IdempotencyKey.fingerprint, IdempotencyKey.answer)
        .filter_by(**place)
        .where(IdempotencyKey.expires_at > func.now())
    ).one_or_none()
    if known is None:
        body = answer()
        fresh = {"fingerprint": fingerprint, "answer": body, "expires_at": func.now() + LIFETIME}
        session.execute(
            insert(IdempotencyKey)
            .values(**place, **fresh)
            .on_conflict_do_update(
                index_elements=[*place],  # one that has expired
                set_={**fresh, "created_at": func.now()},
            )
        )
        return Answer(body, replayed=False)
    if known.fingerprint != fingerprint:
        raise IdempotencyKeyReused("this Idempotency-Key was used with another body")
    return Answer(known.answer, replayed=True)


def forget_expired(session: Session, limit: int = 10_000) -> int:
    """Delete keys that are past their lifetime. Returns how many."""
    expired = (
        select(IdempotencyKey.account_id, IdempotencyKey.scope, IdempotencyKey.key)
        .where(IdempotencyKey.expires_at <= func.now())
        .limit(limit)
        .with_for_update(skip_locked=True)
        .subquery()
    )
    deleted = session.execute(
        delete(IdempotencyKey).where(
            IdempotencyKey.account_id == expired.c.account_id,
            IdempotencyKey.scope == expired.c.scope,
            IdempotencyKey.key == expired.c.key,
        )
    )
    return int(deleted.rowcount)  # type: ignore[attr-defined]


def _fingerprint(request: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).digest()
