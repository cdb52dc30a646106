"""What the webhook sender says and how it reads an answer; over the wire in integration."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import Response

from app.delivery.errors import PermanentError, TransientError
from app.gifts.senders import Parcel
from app.gifts.senders.webhook import _body, _judge, _retry_after

PARCEL = Parcel(
    gift_id=UUID(int=1),
    code=UUID(int=2),
    amount=5,
    message='贈る\n"quoted" 🎁',
    recipient=None,
    accepted_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    simulate={},
)


def answer(status: int, **headers: str) -> Response:
    response = Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def test_the_body_is_what_the_contract_says_and_always_the_same() -> None:
    assert json.loads(_body(PARCEL)) == {
        "type": "gift.sent",
        "timestamp": "2026-01-02T03:04:05.678901+00:00",
        "data": {
            "gift_id": str(PARCEL.gift_id),
            "code": str(PARCEL.code),
            "amount": 5,
            "message": PARCEL.message,
            "recipient": None,
        },
    }
    assert _body(PARCEL) == _body(PARCEL)


def test_a_parcel_does_not_show_its_code() -> None:
    assert str(PARCEL.code) not in repr(PARCEL)
    assert str(PARCEL.code) not in f"{PARCEL}"


def outcome(status: int) -> tuple[str, str]:
    """What a status means, and the code of the error."""
    try:
        _judge(answer(status))
    except TransientError as error:
        return "transient", error.code
    except PermanentError as error:
        return "permanent", error.code
    return "sent", ""


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((*range(200, 300), 409), "sent"),
        ((408, 425, 429, *range(500, 600)), "transient"),
        # An operator can mend the address; the gift is not at fault.
        (range(300, 400), "transient"),
        (sorted({*range(400, 500)} - {408, 409, 425, 429}), "permanent"),
    ],
)
def test_a_status_decides_the_outcome(statuses: list[int], expected: str) -> None:
    code = "" if expected == "sent" else "PROVIDER_{}"
    assert {status: outcome(status) for status in statuses} == {
        status: (expected, code.format(status)) for status in statuses
    }


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("9" * 400, float("inf")),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("١٢", None),
        ("Wed, 99 Foo 2026 00:00:00 GMT", None),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None),
        ("Fri, 31 Dec 2026 23:59:59 +9999999999999999", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str, seconds: float | None) -> None:
    assert _retry_after(answer(503, Retry_After=value)) == seconds


@pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
def test_retry_after_may_be_a_date_to_come(zone: str) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=90)
    value = format_datetime(moment).replace("+0000", zone)
    found = _retry_after(answer(503, Retry_After=value))
    assert found is not None
    assert 85 < found <= 90


@given(value=st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ .?\d*"))
def test_no_retry_after_breaks_the_sender(value: str) -> None:
    found = _retry_after(answer(503, Retry_After=value))
    assert found is None or found >= 0


def test_retry_after_travels_with_the_error() -> None:
    with pytest.raises(TransientError) as raised:
        _judge(answer(429, Retry_After="17"))
    assert raised.value.retry_after == 17
