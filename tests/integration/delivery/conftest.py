from __future__ import annotations

import pytest
from sqlalchemy import Engine

from app import db
from app.gifts.models import Gift
from tests.factories import gifts


@pytest.fixture
def gift(engine: Engine) -> Gift:
    """A queued gift. Detached: what the test does to the row is read again."""
    with db.transaction() as session:
        gift = gifts.queued(session)
        session.expunge_all()
    return gift
