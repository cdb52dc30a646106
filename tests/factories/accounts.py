from __future__ import annotations

import itertools
from uuid import UUID

from sqlalchemy.orm import Session

from app.accounts import service
from app.accounts.service import Principal, Role

_numbers = itertools.count(1)


def principal(session: Session, *, role: Role = "user") -> Principal:
    """The principal of a new account."""
    return service.authenticate(session, key(session, role=role)[1])


def key(session: Session, *, email: str | None = None, role: Role = "user") -> tuple[UUID, str]:
    """A key's id and the key, of a new account unless `email` names one."""
    email = email or f"person{next(_numbers)}@example.com"
    return service.create_key(session, email=email, role=role, name="test")
