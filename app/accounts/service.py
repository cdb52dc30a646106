"""Who is asking: API keys and the principal that they stand for."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, Select, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts.errors import EmailTaken
from app.accounts.models import MAX_EMAIL, MAX_KEY_NAME, ApiKey, User
from app.errors import Invalid, NotFound, Unauthenticated

Role = Literal["user", "operator"]

#: The account of requests without credentials, and only where ENVIRONMENT=local.
LOCAL_OPERATOR_ID = UUID("00000000-0000-4000-8000-000000000001")
LOCAL_OPERATOR_EMAIL = "operator@localhost"

#: The account of what other systems ask for: nobody has a key of it.
SYSTEM_ACCOUNT_ID = UUID("00000000-0000-4000-8000-000000000002")
SYSTEM_ACCOUNT_EMAIL = "system@localhost"

#: Leaked keys are found by scanners that know their beginning.
KEY_PREFIX = "okuru_"
KEY_BYTES = 32


@dataclass(frozen=True)
class Principal:
    """On whose behalf a request acts, and as what."""

    account_id: UUID
    role: Role


def authenticate(session: Session, key: str) -> Principal:
    """The principal of an API key.

    Raises:
        Unauthenticated: no such key, it was revoked, or its account is not active: the caller
            learns no more than that.
    """
    row = session.execute(_principal(), {"digest": _digest(key)}).one_or_none()
    if row is None:
        raise Unauthenticated("the API key is unknown or revoked")
    return Principal(row.user_id, row.role)


@cache
def _principal() -> Select[UUID, str]:
    """Built once: every request asks."""
    return (
        select(ApiKey.user_id, ApiKey.role)
        .join(User, User.id == ApiKey.user_id)
        .where(
            ApiKey.hash == bindparam("digest"),
            ApiKey.revoked_at.is_(None),
            User.is_active.is_(True),
        )
    )


def local_operator(session: Session) -> Principal:
    """The built-in principal of the local stack, made on first use."""
    session.execute(
        insert(User)
        .values(id=LOCAL_OPERATOR_ID, email=LOCAL_OPERATOR_EMAIL)
        .on_conflict_do_nothing()
    )
    return Principal(LOCAL_OPERATOR_ID, "operator")


def system_account(session: Session) -> UUID:
    """The account that owns what other systems ask for, made on first use."""
    session.execute(
        insert(User)
        .values(id=SYSTEM_ACCOUNT_ID, email=SYSTEM_ACCOUNT_EMAIL)
        .on_conflict_do_nothing()
    )
    return SYSTEM_ACCOUNT_ID


def known(session: Session, text: str) -> UUID | None:
    """The id of the account that `text` is the id of, if it is one."""
    try:
        account_id = UUID(text)
    except ValueError:
        return None
    return session.scalar(select(User.id).where(User.id == account_id))


# --- users --------------------------------------------------------------------------------------


def create_user(session: Session, fields: Mapping[str, Any]) -> User:
    """A new account.

    Args:
        fields: columns of `User`; its password is hashed already.

    Raises:
        EmailTaken: an account has this email, whatever its capitals.
    """
    user = session.scalars(
        insert(User).values(**fields).on_conflict_do_nothing().returning(User)
    ).one_or_none()
    if user is None:
        raise EmailTaken("an account has this email already")
    return user


def get_user(session: Session, user_id: UUID) -> User:
    """
    Raises:
        NotFound: there is no such account.
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("user not found")
    return user


def initialise_profile(session: Session, user_id: UUID, profile: Mapping[str, Any]) -> bool:
    """Keep what is known of a new user. Returns whether that was not done before."""
    initialised = session.execute(
        update(User)
        .where(User.id == user_id, User.profile.is_(None))
        .values(profile=dict(profile))
        .returning(User.id)
    )
    return initialised.one_or_none() is not None


# --- keys ---------------------------------------------------------------------------------------


def create_key(session: Session, *, email: str, role: Role, name: str) -> tuple[UUID, str]:
    """Make a key for the account of `email`, and the account if there is none.

    Returns:
        The key's id, and the key itself, which nobody can ask for again.

    Raises:
        Invalid: `email` cannot be an address, or `name` is too long.
    """
    if "@" not in email or len(email) > MAX_EMAIL or not email.isprintable():
        raise Invalid(f"{email!r} is no email address")
    if len(name) > MAX_KEY_NAME:
        raise Invalid(f"a key's name may have at most {MAX_KEY_NAME} characters")
    session.execute(insert(User).values(email=email).on_conflict_do_nothing())
    user_id = session.execute(
        select(User.id).where(func.lower(User.email) == email.lower())
    ).scalar_one()
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key_id = session.execute(
        insert(ApiKey)
        .values(user_id=user_id, role=role, name=name, hash=_digest(key))
        .returning(ApiKey.id)
    ).scalar_one()
    return key_id, key


def list_keys(session: Session) -> Sequence[Row[ApiKey, str]]:
    """All keys with their accounts' emails, oldest first."""
    return session.execute(
        select(ApiKey, User.email).join(User, User.id == ApiKey.user_id).order_by(ApiKey.created_at)
    ).all()


def revoke_key(session: Session, key_id: UUID) -> None:
    """From now on the key opens nothing. Revoking twice is the same.

    Raises:
        NotFound: there is no such key.
    """
    revoked = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
        .returning(ApiKey.id)
    )
    if revoked.one_or_none() is None:
        raise NotFound(f"no API key {key_id}")


def _digest(key: str) -> bytes:
    """A plain hash will do: 256 random bits cannot be guessed, so nothing has to be slow."""
    return hashlib.sha256(key.encode(errors="replace")).digest()
