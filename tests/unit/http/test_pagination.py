"""Cursors: opaque for callers, a place for us."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import marshmallow as ma
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.pagination import MAX_LIMIT, PageQuery, Place, page

AN_ID = UUID("00000000-0000-4000-8000-000000000001")

rows = st.builds(
    SimpleNamespace,
    created_at=st.datetimes(timezones=st.just(UTC)),
    id=st.uuids(),
)


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def load(**query: Any) -> dict[str, Any]:
    return PageQuery().load(query)


@given(st.lists(rows, min_size=2, max_size=5))
def test_the_cursor_of_a_page_is_the_place_of_its_last_row(listed: list[Any]) -> None:
    limit = len(listed) - 1

    answer = page(listed, limit)

    assert answer["items"] == listed[:limit]
    last = listed[limit - 1]
    assert load(cursor=answer["next_cursor"])["cursor"] == Place(last.created_at, last.id)


@given(st.lists(rows, max_size=5), st.integers(0, 3))
def test_the_last_page_has_no_cursor(listed: list[Any], spare: int) -> None:
    assert page(listed, len(listed) + spare) == {"items": listed, "next_cursor": None}


def test_the_first_page_needs_nothing() -> None:
    assert load() == {"limit": 50}


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    for value in (text, cursor(text.encode(errors="replace").decode())):
        errors = PageQuery().validate({"cursor": value})
        assert errors in ({}, {"cursor": ["Not a cursor: use next_cursor of the page before."]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(AN_ID),
        "2026-01-01T00:00:00+00:00",
        f"2026-01-01T00:00:00 {AN_ID}",  # no time zone
        f"2026-13-01T00:00:00+00:00 {AN_ID}",
        "2026-01-01T00:00:00+00:00 1",
        f"0001-01-01T00:00:00+15:00 {AN_ID}",  # before the first moment in UTC
        f"9999-12-31T23:59:59-15:00 {AN_ID}",  # after the last
    ],
)
def test_a_forged_cursor_is_refused(text: str) -> None:
    with pytest.raises(ma.ValidationError):
        load(cursor=cursor(text))


def test_a_forged_time_zone_is_turned_into_utc() -> None:
    """PostgreSQL refuses time zones of 16 hours and more; Python does not."""
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=20)))

    place = load(cursor=cursor(f"{moment.isoformat()} {AN_ID}"))["cursor"]

    assert place.created_at == moment
    assert place.created_at.tzinfo is UTC


@pytest.mark.parametrize("limit", ["1", "50", str(MAX_LIMIT)])
def test_limits_within_the_bounds_are_taken(limit: str) -> None:
    assert load(limit=limit)["limit"] == int(limit)


@pytest.mark.parametrize(
    "limit",
    ["0", "-1", str(MAX_LIMIT + 1), "", "ten", "1.0", "1e1", "1_0", "+5", " 5", "５", "9" * 5000],
)
def test_other_limits_are_refused(limit: str) -> None:
    with pytest.raises(ma.ValidationError) as refusal:
        load(limit=limit)

    assert set(refusal.value.messages) == {"limit"}


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ma.ValidationError):
        load(page="2", cursor=cursor(f"2026-01-01T00:00:00+00:00 {uuid4()}"))
