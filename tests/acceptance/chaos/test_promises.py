"""The judge of the chaos tests can find each promise broken: with evidence made for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.acceptance.chaos import promises
from tests.acceptance.chaos.evidence import Attempt, Evidence, Gift, Letter, Move
from tests.acceptance.chaos.promises import broken
from tests.acceptance.chaos.provider import Call

GIFT = Gift("g", "SENT", send_no=1, executions=1, restages=0, failure=None)
EXHAUSTED = replace(GIFT, status="FAILED", executions=5, failure="exhausted")
ATTEMPT = Attempt("g", 1, "m", "sent")
LOST = replace(ATTEMPT, outcome="lost")
CALL = Call("g", "accepted", effect=True, digest="d", overlap=False)
REPEATED = replace(CALL, fate="repeated", effect=False)
QUEUED = [Move("g", None, "CREATED", 0), Move("g", "CREATED", "QUEUED", 1)]
SENT = [*QUEUED, Move("g", "QUEUED", "SENT", 1)]
FAILED = [*QUEUED, Move("g", "QUEUED", "FAILED", 1)]
LATE = [*FAILED, Move("g", "FAILED", "SENT", 1)]
LETTER = Letter("m", "g", 1)


def evidence(gift: Gift = GIFT, **changes: Any) -> Evidence:
    is_sent = gift.status == "SENT"
    found = Evidence(
        created=["g"],
        accepted=["g"],
        gifts={"g": gift},
        attempts=[ATTEMPT] if is_sent else [LOST] * 5,
        moves=SENT if is_sent else FAILED,
        letters=[] if is_sent else [LETTER],
        calls=[CALL] if is_sent else [],
    )
    return replace(found, **changes)


KEPT = {
    "sent": evidence(),
    "failed": evidence(EXHAUSTED),
    "called twice": evidence(attempts=[LOST, ATTEMPT], calls=[CALL, REPEATED]),
    "outcome unknown": evidence(EXHAUSTED, calls=[CALL]),
    "a copy was buried": evidence(letters=[replace(LETTER, message_id="copy")]),
    "an older send was buried": evidence(letters=[replace(LETTER, send_no=0)]),
    "a late answer": evidence(moves=LATE, letters=[LETTER]),
    "SQS lost its letters": evidence(EXHAUSTED, letters=[], sqs_lost_messages=True),
    "refused for good": evidence(replace(EXHAUSTED, failure="permanent"), letters=[]),
    "poison": evidence(poison={"p": "text"}, buried=frozenset("p")),
}

BROKEN = {
    "gone": (promises.nothing_is_lost, evidence(gifts={})),
    "still queued": (promises.nothing_is_lost, evidence(replace(GIFT, status="QUEUED"))),
    "two effects": (promises.each_gift_has_one_effect, evidence(calls=[CALL, CALL])),
    "no effect": (promises.each_gift_has_one_effect, evidence(calls=[REPEATED])),
    "failed early with an effect": (
        promises.each_gift_has_one_effect,
        evidence(replace(EXHAUSTED, executions=4), calls=[CALL]),
    ),
    "refused with an effect": (
        promises.each_gift_has_one_effect,
        evidence(replace(EXHAUSTED, failure="permanent"), calls=[CALL]),
    ),
    "unsigned": (promises.calls_are_alike, evidence(calls=[replace(CALL, fate="forged")])),
    "other bytes": (
        promises.calls_are_alike,
        evidence(attempts=[LOST, ATTEMPT], calls=[CALL, replace(REPEATED, digest="e")]),
    ),
    "two inside": (promises.calls_are_alike, evidence(calls=[replace(CALL, overlap=True)])),
    "a call without an attempt": (
        promises.calls_are_alike,
        evidence(calls=[CALL, REPEATED]),
    ),
    "a forbidden move": (
        promises.moves_follow_the_diagram,
        evidence(moves=[*SENT, Move("g", "SENT", "QUEUED", 2), Move("g", "QUEUED", "SENT", 2)]),
    ),
    "a hole in the path": (
        promises.moves_follow_the_diagram,
        evidence(moves=[*QUEUED, Move("g", "FAILED", "SENT", 1)]),
    ),
    "a wrong send number": (
        promises.moves_follow_the_diagram,
        evidence(moves=[*QUEUED, Move("g", "QUEUED", "SENT", 2)]),
    ),
    "an unlogged move": (promises.moves_follow_the_diagram, evidence(moves=QUEUED)),
    "a refused move": (
        promises.moves_follow_the_diagram,
        evidence(refused_moves=["gifts cannot go from SENT to QUEUED"]),
    ),
    "an open attempt": (
        promises.attempts_tell_the_truth,
        evidence(attempts=[replace(ATTEMPT, outcome=None), ATTEMPT]),
    ),
    "sent twice": (promises.attempts_tell_the_truth, evidence(attempts=[ATTEMPT, ATTEMPT])),
    "no sent attempt": (promises.attempts_tell_the_truth, evidence(attempts=[LOST])),
    "sent attempt of a failed gift": (
        promises.attempts_tell_the_truth,
        evidence(EXHAUSTED, attempts=[ATTEMPT]),
    ),
    "six executions": (
        promises.attempts_tell_the_truth,
        evidence(attempts=[*[LOST] * 5, ATTEMPT]),
    ),
    "buried while queued": (
        promises.dead_letters_have_failed_rows,
        evidence(replace(GIFT, status="QUEUED"), letters=[LETTER]),
    ),
    "buried after it sent": (
        promises.dead_letters_have_failed_rows,
        evidence(letters=[LETTER]),
    ),
    "failed without a letter": (
        promises.failed_gifts_have_dead_letters,
        evidence(EXHAUSTED, letters=[]),
    ),
    "poison vanished": (promises.poison_is_buried, evidence(poison={"p": "text"})),
    "failed where it could not": (promises.everything_is_sent, evidence(EXHAUSTED)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_may_happen_is_accepted(name: str) -> None:
    assert broken(KEPT[name]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_what_may_not_happen_is_found(name: str) -> None:
    promise, found = BROKEN[name]
    assert broken(found, [promise])


def test_each_promise_is_broken_here_at_least_once() -> None:
    assert {promise for promise, _ in BROKEN.values()} >= set(promises.ALL)
