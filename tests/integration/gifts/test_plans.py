"""The statements of the API find their rows by an index, whatever the table holds."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.accounts.service import Principal
from app.errors import NotFound
from app.gifts import service
from tests.factories import accounts
from tests.integration.plans import plans

ACCOUNTS = 20
GIFTS = 5_000


@pytest.fixture
def owner(session: Session) -> Principal:
    """The owner of one of many accounts with many gifts, a few of them queued."""
    principals = [accounts.principal(session) for _ in range(ACCOUNTS)]
    session.execute(
        text(
            "INSERT INTO gifts (account_id, amount, created_at) SELECT (:ids)[1 + n % :accounts],"
            " n, now() - n * interval '1 second' FROM generate_series(1, :gifts) AS n"
        ),
        {
            "ids": [principal.account_id for principal in principals],
            "accounts": ACCOUNTS,
            "gifts": GIFTS,
        },
    )
    session.execute(
        text(
            "UPDATE gifts SET status = 'QUEUED', send_no = 1, accepted_at = now()"
            " WHERE amount % 7 = 0"
        )
    )
    session.execute(text("ANALYZE gifts"))
    return principals[0]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "ix_gifts_account_created"),
        ({"status": "QUEUED"}, "ix_gifts_account_status_created"),
    ],
)
@pytest.mark.parametrize("page", ["first", "next"])
def test_a_page_is_read_from_its_index_in_order(
    session: Session, owner: Principal, filters: dict[str, Any], index: str, page: str
) -> None:
    before = None
    if page == "next":
        last = service.list_gifts(session, owner, limit=5, **filters)[-1]
        before = (last.created_at, last.id)

    (plan,) = plans(
        session, lambda: service.list_gifts(session, owner, limit=5, before=before, **filters)
    )

    assert f"Index Scan Backward using {index} on gifts" in plan
    assert "Sort" not in plan, "the index has the order"
    # The place is part of the search: a late page costs as little as the first.
    assert ("ROW(created_at, id) <" in plan.replace("gifts.", "")) == (page == "next")
    assert "Filter" not in plan


def test_a_send_finds_its_gift_by_its_id(session: Session, owner: Principal) -> None:
    gift = service.list_gifts(session, owner, limit=1, status="CREATED")[0]

    (plan,) = plans(session, lambda: service.request_send(session, owner, gift.id, "order-1"))

    assert "Index Scan using pk_gifts on gifts" in plan
    assert "Seq Scan" not in plan


def test_a_replay_finds_its_key_by_its_index(session: Session, owner: Principal) -> None:
    gift = service.list_gifts(session, owner, limit=1, status="CREATED")[0]
    service.request_send(session, owner, gift.id, "order-1")
    session.execute(text("SET LOCAL enable_seqscan = off"))  # for a table of one row

    _, plan = plans(session, lambda: service.request_send(session, owner, gift.id, "order-1"))

    assert "pk_gifts" in plan
    assert "pk_send_requests" in plan


def test_an_unknown_gift_costs_two_look_ups(session: Session, owner: Principal) -> None:
    def ask() -> None:
        with pytest.raises(NotFound):
            service.request_send(session, owner, UUID(int=1), "order-1")

    for plan in plans(session, ask):
        assert "Seq Scan on gifts" not in plan
