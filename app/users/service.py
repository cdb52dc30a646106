"""The rules of users."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.accounts.models import User
from app.accounts.ownership import require_owner
from app.accounts.service import Principal
from app.jobs import service as jobs

log = logging.getLogger(__name__)

#: Above the jobs of the default priority, and in their band (the customer's document gives it 1).
WELCOME_PRIORITY = 1


def create(session: Session, principal: Principal, fields: Mapping[str, Any]) -> User:
    """A new user, and in the same transaction the job that welcomes them.

    Args:
        principal: who asks; the job is theirs.
        fields: columns of `User`.

    Raises:
        EmailTaken: an account has this email, whatever its capitals.
    """
    user = accounts.create_user(session, fields)
    payload = {"user_id": str(user.id), "additional_data": user.additional_data}
    jobs.enqueue(
        session,
        account_id=principal.account_id,
        job_type="user_created",
        payload=payload,
        priority=WELCOME_PRIORITY,
        unique_key=f"user_created:{user.id}",
    )
    log.info("user created", extra={"user_id": str(user.id)})
    return user


def get(session: Session, principal: Principal, user_id: UUID) -> User:
    """A user sees itself; operators, who make users, see all (docs/adr/0015).

    Raises:
        NotFound: there is no such user.
        Forbidden: it is somebody else.
    """
    user = accounts.get_user(session, user_id)
    if principal.role != "operator":
        require_owner(principal, user.id, "user")
    return user
