"""What must be true of the evidence, whatever was broken. Pure: `test_promises.py` breaks each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from tests.acceptance.chaos.evidence import Evidence, Gift

FINAL = ("SENT", "FAILED")
MAX_EXECUTIONS = 5
MAX_RESTAGES = 3

#: The diagram of docs/architecture.md, and how each move changes the send number.
DIAGRAM = {
    (None, "CREATED"): 0,
    ("CREATED", "QUEUED"): 1,
    ("QUEUED", "SENT"): 0,
    ("QUEUED", "FAILED"): 0,
    ("FAILED", "SENT"): 0,
    ("FAILED", "QUEUED"): 1,
}

Promise = Callable[[Evidence], Iterator[str]]


def nothing_is_lost(found: Evidence) -> Iterator[str]:
    """Every acknowledged send is final."""
    for gift_id in found.accepted:
        gift = found.gifts.get(gift_id)
        if gift is None or gift.status not in FINAL:
            yield f"gift {gift_id} was accepted and is {gift.status if gift else 'gone'}"


def each_gift_has_one_effect(found: Evidence) -> Iterator[str]:
    """In the ledger: one for each SENT gift, none twice, and none for a gift that is not SENT
    unless it says itself that its outcome is unknown (DESIGN.md names that case: a crash between
    the provider's yes and our record of it, on the last execution)."""
    effects = Counter(call.key for call in found.calls if call.effect)
    for gift_id, times in effects.items():
        if times > 1:
            yield f"gift {gift_id} had {times} effects"
    for gift in found.gifts.values():
        if gift.status == "SENT" and not effects[gift.id]:
            yield f"gift {gift.id} is SENT without an effect"
        if gift.status != "SENT" and effects[gift.id] and not _outcome_is_unknown(gift):
            yield f"gift {gift.id} is {gift.status} and had its effect"


def _outcome_is_unknown(gift: Gift) -> bool:
    given_up = gift.executions >= MAX_EXECUTIONS or gift.restages >= MAX_RESTAGES
    return gift.status == "FAILED" and gift.failure != "permanent" and given_up


def calls_are_alike(found: Evidence) -> Iterator[str]:
    """Repeated calls have the same key and the same bytes, never two at a time, no more of them
    than there were executions, and all of them are signed."""
    digests = defaultdict(set)
    for call in found.calls:
        if call.fate == "forged":
            yield f"a call about gift {call.key} was not signed as it should be"
        else:
            digests[call.key].add(call.digest)
        if call.overlap:
            yield f"two copies of gift {call.key} were inside the provider at once"
    for gift_id, bodies in digests.items():
        if len(bodies) > 1:
            yield f"the calls about gift {gift_id} differ"
    attempts = Counter(attempt.gift_id for attempt in found.attempts)
    for gift_id, times in Counter(call.key for call in found.calls).items():
        if times > attempts[gift_id]:
            yield f"gift {gift_id}: {times} calls, but {attempts[gift_id]} attempts"


def moves_follow_the_diagram(found: Evidence) -> Iterator[str]:
    """By the log of moves; and the database's own guard never had to refuse one."""
    path: dict[str, tuple[str, int]] = {}
    for move in found.moves:
        before, number = path.get(move.gift_id) or (None, 0)
        if move.before != before:
            yield f"gift {move.gift_id} was {before} and moved from {move.before}"
        step = DIAGRAM.get((move.before, move.after))
        if step is None:
            yield f"gift {move.gift_id} went from {move.before} to {move.after}"
        elif move.send_no != number + step:
            yield f"gift {move.gift_id} became {move.after} with send number {move.send_no}"
        path[move.gift_id] = (move.after, move.send_no)
    for gift in found.gifts.values():
        if path.get(gift.id) != (gift.status, gift.send_no):
            yield f"gift {gift.id} is {gift.status}, its last logged move: {path.get(gift.id)}"
    for line in found.refused_moves:
        yield f"the database had to refuse a move: {line}"


def attempts_tell_the_truth(found: Evidence) -> Iterator[str]:
    """A SENT gift has one attempt that says "sent" and belongs to its send, another gift none;
    no attempt is left open; nothing runs more than five times in one send."""
    outcomes = defaultdict(list)
    executions = Counter((each.gift_id, each.send_no) for each in found.attempts)
    for attempt in found.attempts:
        if attempt.outcome is None:
            yield f"gift {attempt.gift_id} has an attempt that never ended"
        if attempt.outcome == "sent":
            outcomes[attempt.gift_id].append(attempt.send_no)
    for gift in found.gifts.values():
        expected = [gift.send_no] if gift.status == "SENT" else []
        if outcomes[gift.id] != expected:
            yield f"gift {gift.id} is {gift.status}, sent attempts: {outcomes[gift.id]}"
    for (gift_id, send_no), times in executions.items():
        if times > MAX_EXECUTIONS:
            yield f"gift {gift_id} ran {times} times in send {send_no}"


def dead_letters_have_failed_rows(found: Evidence) -> Iterator[str]:
    """A dead letter's gift is FAILED, unless the letter no longer speaks for the gift:

    - its send number is an older one: an operator has asked again since;
    - the gift is SENT and another message did it: the letter was a copy of that one, or it used
      up its receives without five executions (workers died, the database was gone) and the
      reconciler staged the send again because of it;
    - the gift went from FAILED to SENT: the provider's answer came late (ADR 5).

    A letter that did the sending itself, as the log of moves has it without FAILED before, is a
    violation: its message should have been deleted, not buried.
    """
    sent_by = {
        attempt.gift_id: attempt.message_id
        for attempt in found.attempts
        if attempt.outcome == "sent"
    }
    late = {move.gift_id for move in found.moves if (move.before, move.after) == ("FAILED", "SENT")}
    for letter in found.letters:
        gift = found.gifts[letter.gift_id]
        if gift.status == "FAILED" or (letter.send_no or 0) < gift.send_no:
            continue
        if gift.status != "SENT":
            yield f"dead letter {letter.message_id}: gift {gift.id} is {gift.status}"
        elif sent_by.get(gift.id) == letter.message_id and gift.id not in late:
            yield f"dead letter {letter.message_id}: gift {gift.id} was SENT by it"


def failed_gifts_have_dead_letters(found: Evidence) -> Iterator[str]:
    """Whoever fails for lack of executions can be redriven from its dead letter; not where SQS
    itself lost its messages."""
    lettered = {letter.gift_id for letter in found.letters}
    for gift in found.gifts.values():
        if (
            gift.status == "FAILED"
            and gift.failure != "permanent"
            and gift.id not in lettered
            and not found.sqs_lost_messages
        ):
            yield f"gift {gift.id} is FAILED ({gift.failure}) without a dead letter"


def poison_is_buried(found: Evidence) -> Iterator[str]:
    for message_id, kind in found.poison.items():
        if message_id not in found.buried:
            yield f"poison is no dead letter: {kind}"


ALL: tuple[Promise, ...] = (
    nothing_is_lost,
    each_gift_has_one_effect,
    calls_are_alike,
    moves_follow_the_diagram,
    attempts_tell_the_truth,
    dead_letters_have_failed_rows,
    failed_gifts_have_dead_letters,
    poison_is_buried,
)


def everything_is_sent(found: Evidence) -> Iterator[str]:
    """Where no fault can use up five executions of a gift."""
    for gift_id in found.accepted:
        gift = found.gifts.get(gift_id)
        if gift and gift.status == "FAILED":
            yield f"gift {gift_id} is FAILED ({gift.failure}, {gift.executions} executions)"


def broken(found: Evidence, promises: Iterable[Promise] = ALL) -> list[str]:
    """One line for each violation, behind the name of its promise."""
    return [
        f"{promise.__name__.replace('_', ' ')}: {violation}"
        for promise in promises
        for violation in promise(found)
    ]
