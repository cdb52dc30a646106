"""The job that creating a user enqueues."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import marshmallow as ma

from app import db
from app.accounts import service as accounts
from app.delivery.errors import PermanentError
from app.errors import NotFound
from app.fields import JsonObject
from app.jobs.processors import Context, processor
from app.notifications import service as notifications
from app.observability import metrics

#: Ranks by score, the highest first (the customer's document leaves the numbers open).
RANKS = ((80, "gold"), (50, "silver"), (0, "bronze"))


class UserCreated(ma.Schema):
    user_id = ma.fields.UUID(required=True)
    additional_data = JsonObject(load_default=dict)


@processor("user_created", UserCreated, reserved=True)
def user_created(context: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Welcome a new user, make their profile, and count the signup: each once, at whichever
    execution comes so far."""
    user_id: UUID = payload["user_id"]
    profile = analysed(payload["additional_data"])
    with db.transaction() as session:
        try:
            user = accounts.get_user(session, user_id)
        except NotFound:
            raise PermanentError("NO_SUCH_USER", "the user does not exist") from None
        welcomed = notifications.notify(
            session,
            recipient=str(user_id),
            title="ようこそ / Welcome",
            body=f"{user.name or user.email} さん、ご登録ありがとうございます。",
            occasion=context.idempotency_key,
        )
        signed_up = accounts.initialise_profile(session, user_id, profile)
    if signed_up:
        metrics.SIGNUPS.inc()
    # Its parts by name: the profile itself stands with the user, and may be larger than a result.
    return {"welcomed": welcomed, "profile": sorted(profile)}


def analysed(additional: dict[str, Any]) -> dict[str, Any]:
    """A profile from what the user said beyond the form: hobby, location, score; the rest is named.

    What cannot be understood is left out: it must not keep a user from being welcomed.
    """
    profile: dict[str, Any] = {}
    hobby, location, score = (additional.get(name) for name in ("hobby", "location", "score"))
    if hobbies := [each for each in _listed(hobby) if isinstance(each, str) and each.strip()]:
        profile["interests"] = sorted({each.strip() for each in hobbies})
    if isinstance(location, str) and location.strip():
        profile["region"] = location.strip()
    if isinstance(score, int | float) and not isinstance(score, bool):
        profile["score"] = score
        profile["rank"] = next((rank for least, rank in RANKS if score >= least), RANKS[-1][1])
    others = sorted(set(additional) - {"hobby", "location", "score"})
    if others:
        profile["other_fields"] = others
    return profile


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
