from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from app.accounts.service import Principal
from app.gifts import service
from app.gifts.models import Gift
from tests.factories import accounts


def created(session: Session, *, owner: Principal | None = None, **fields: Any) -> Gift:
    """A gift that nobody has asked to send."""
    owner = owner or accounts.principal(session)
    return service.create(session, owner, {"amount": 100, **fields}, may_simulate=True)


def queued(session: Session, *, request_id: str = "key-1", **fields: Any) -> Gift:
    """A gift that was asked for under `request_id`; its task is staged."""
    owner = fields.pop("owner", None) or accounts.principal(session)
    gift = created(session, owner=owner, **fields)
    service.request_send(session, owner, gift.id, request_id)
    session.refresh(gift)
    return gift
