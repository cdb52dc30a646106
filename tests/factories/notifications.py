from __future__ import annotations

import itertools
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.notifications import service
from app.notifications.models import Notification

_numbers = itertools.count(1)


def stored(session: Session, recipient: UUID | str, *, title: str = "hi") -> UUID:
    """The id of a new notification for an account, or for somebody who is none."""
    occasion = f"occasion {next(_numbers)}"
    service.notify(session, recipient=str(recipient), title=title, body="…", occasion=occasion)
    return session.scalars(select(Notification.id).where(Notification.occasion == occasion)).one()
