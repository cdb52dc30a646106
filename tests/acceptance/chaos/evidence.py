"""What is left when nothing moves any more: the rows, the log of moves, the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.acceptance.chaos.instruments import Database
from tests.acceptance.chaos.provider import Call


@dataclass(frozen=True)
class Gift:
    id: str
    status: str
    send_no: int
    executions: int
    restages: int
    failure: str | None


@dataclass(frozen=True)
class Attempt:
    gift_id: str
    send_no: int
    message_id: str
    outcome: str | None
    """None while it is open."""


@dataclass(frozen=True)
class Move:
    gift_id: str
    before: str | None
    after: str
    send_no: int


@dataclass(frozen=True)
class Letter:
    message_id: str
    gift_id: str
    send_no: int | None


@dataclass(frozen=True)
class Evidence:
    """Of one run. `calls` are those about its gifts; `created` includes `accepted`."""

    created: Sequence[str] = ()
    accepted: Sequence[str] = ()
    gifts: Mapping[str, Gift] = field(default_factory=dict)
    attempts: Sequence[Attempt] = ()
    moves: Sequence[Move] = ()
    letters: Sequence[Letter] = ()
    calls: Sequence[Call] = ()
    poison: Mapping[str, str] = field(default_factory=dict)
    buried: frozenset[str] = frozenset()
    refused_moves: Sequence[str] = ()
    sqs_lost_messages: bool = False


def gather(
    database: Database,
    calls: Sequence[Call],
    *,
    created: Sequence[str],
    accepted: Sequence[str],
    poison: Mapping[str, str],
    refused_moves: Sequence[str],
    sqs_lost_messages: bool,
) -> Evidence:
    ids = list(created)
    gifts = database.rows(
        "SELECT id::text, status, send_no, executions, restages, failure FROM gifts"
        " WHERE id = ANY(%s::uuid[])",
        ids,
    )
    attempts = database.rows(
        "SELECT subject_id::text, send_no, message_id, outcome FROM attempts"
        " WHERE kind = 'gift' AND subject_id = ANY(%s::uuid[]) ORDER BY id",
        ids,
    )
    moves = database.rows(
        "SELECT gift_id::text, before, after, send_no FROM chaos.moves"
        " WHERE gift_id = ANY(%s::uuid[]) ORDER BY id",
        ids,
    )
    letters = database.rows(
        "SELECT message_id, subject_id::text, send_no FROM dead_letters"
        " WHERE subject_id = ANY(%s::uuid[])",
        ids,
    )
    buried = database.rows(
        "SELECT message_id FROM dead_letters WHERE message_id = ANY(%s)", list(poison)
    )
    return Evidence(
        created=created,
        accepted=accepted,
        gifts={row[0]: Gift(*row) for row in gifts},
        attempts=[Attempt(*row) for row in attempts],
        moves=[Move(*row) for row in moves],
        letters=[Letter(*row) for row in letters],
        calls=[call for call in calls if call.key in set(ids)],
        poison=poison,
        buried=frozenset(row[0] for row in buried),
        refused_moves=refused_moves,
        sqs_lost_messages=sqs_lost_messages,
    )
