"""The steps of accepting, relaying and sending, timed in turn on two databases: JSON lines.

python -m tests.load.contenders.steps TIMES URL=FIRST URL=FIRST
    FIRST: the number of the first gift (tests/load/seeds.py) that is free there.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app import create_app, db
from app.accounts import service as accounts
from app.accounts.models import User
from app.config import Settings
from app.delivery.service import Settle
from app.gifts import service
from app.gifts.models import Gift
from app.gifts.senders.simulated import SimulatedSender
from app.outbox import service as outbox
from tests.load.contenders.boto3_gifts import Delivery
from tests.load.seeds import gift_id

#: Operations of one step on one database, before the other one's turn.
TURN = 20
RELAYED = 100


class Place:
    """One of the databases."""

    def __init__(self, settings: Settings, url: str, first: int) -> None:
        self.settings = dataclasses.replace(settings, database_url=url, db_max_open_conns=1)
        self.next = first
        self.api = create_app(self.settings).wsgi_app
        self.engine = db.configure(self.settings, db.WORKER)
        with db.transaction() as session:
            owner = select(User.email).join(Gift, Gift.account_id == User.id).limit(1)
            email = session.execute(owner).scalar_one()
            _, self.key = accounts.create_key(session, email=email, role="user", name="steps")

    def pages(self) -> int:
        """Buffers that this database's sessions have touched so far."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            connection.commit()
            return int(
                connection.execute(
                    text(
                        "SELECT blks_hit + blks_read FROM pg_stat_database"
                        " WHERE datname = current_database()"
                    )
                ).scalar_one()
            )


def accept(place: Place, subject: UUID) -> None:
    """The whole request, without a server's work on it."""
    headers = {"X-API-Key": place.key, "Idempotency-Key": f"key-{subject}"}
    request = EnvironBuilder(f"/gifts/{subject}/send", method="POST", headers=headers)
    _, status, _ = run_wsgi_app(place.api, request.get_environ(), buffered=True)
    assert status.startswith("202"), status


def send(_place: Place, subject: UUID) -> None:
    delivery = Delivery(f"message-{subject}", 1, False, "steps")
    verdict = service.send(subject, 1, delivery, SimulatedSender(0))
    assert verdict.settle == Settle.DELETE, verdict


def relay(_place: Place, _subject: UUID) -> None:
    with db.transaction() as session:
        assert len(outbox.take(session, limit=RELAYED)) == RELAYED
        session.rollback()  # the depth stays as it is


def measure_outbox(_place: Place, _subject: UUID) -> None:
    with db.transaction() as session:
        outbox.backlog(session)


def main() -> None:
    times = int(sys.argv[1])
    settings = Settings.from_env()
    places = []
    for argument in sys.argv[2:]:
        url, _, first = argument.rpartition("=")
        places.append(Place(settings, url, int(first)))
    for turn in range(times // TURN + 1):
        for number, place in enumerate(places):
            db._sessions.configure(bind=place.engine)
            subjects = [gift_id(place.next + each) for each in range(TURN)]
            place.next += TURN
            for step, subjects_of_step in (
                (accept, subjects),
                (send, subjects),
                (relay, subjects[:2]),
                (measure_outbox, subjects[:1]),
            ):
                before = place.pages()
                took = [_timed(step, place, subject) for subject in subjects_of_step]
                pages = (place.pages() - before) / len(took)
                if turn:  # the first one prepares statements, caches and connections
                    line = {"place": number, "step": step.__name__, "ms": took, "pages": pages}
                    print(json.dumps(line))  # noqa: T201 - for the runner


def _timed(step: Callable[[Place, UUID], Any], place: Place, subject: UUID) -> float:
    started = time.perf_counter()
    step(place, subject)
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
