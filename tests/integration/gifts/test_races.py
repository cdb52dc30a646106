"""A hundred callers at once, on a real gunicorn: one send, whoever asks and however often."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from sqlalchemy import Engine, text

from app import db
from tests.integration.api import WebServer, contents, empty, web_server

CALLERS = 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[WebServer]:
    with web_server(
        tmp_path_factory.mktemp("web") / "home",
        DATABASE_URL=database_url,
        QUEUE_URL_PREFIX="http://127.0.0.1:1/000000000000/none-",
        WEB_PROCESSES="2",
        WEB_THREADS="8",
        DB_MAX_OPEN_CONNS="8",
    ) as server:
        yield server


@pytest.fixture
def rows(database_url: str) -> Iterator[Engine]:
    engine = db.engine_for(database_url, db.OPERATOR)
    yield engine
    empty(engine)
    engine.dispose()


def at_once(call: Callable[[int], requests.Response]) -> list[requests.Response]:
    """All callers stand at the line before the first one starts."""
    line = threading.Barrier(CALLERS)

    def run(number: int) -> requests.Response:
        line.wait(timeout=30)
        return call(number)

    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(run, range(CALLERS)))


def created(server: WebServer) -> str:
    answer = requests.post(f"{server.url}/gifts", json={"amount": 5}, timeout=30).json()
    return str(answer["gift_id"])


def send(server: WebServer, gift_id: str, key: str) -> requests.Response:
    return requests.post(
        f"{server.url}/gifts/{gift_id}/send", headers={"Idempotency-Key": key}, timeout=30
    )


def test_a_hundred_calls_with_one_key_are_one_202_and_99_200_with_the_same_body(
    server: WebServer, rows: Engine
) -> None:
    gift_id = created(server)

    answers = at_once(lambda _: send(server, gift_id, "order-1"))

    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: CALLERS - 1}
    assert len({answer.content for answer in answers}) == 1
    replayed = Counter(answer.headers.get("Idempotent-Replayed") for answer in answers)
    assert replayed == {None: 1, "true": CALLERS - 1}
    found = contents(rows)
    assert (found["outbox"], found["send_requests"]) == (1, 1)


def test_a_hundred_keys_are_one_202_and_99_409(server: WebServer, rows: Engine) -> None:
    gift_id = created(server)

    answers = at_once(lambda number: send(server, gift_id, f"order-{number}"))

    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: CALLERS - 1}
    (winner,) = [answer.json() for answer in answers if answer.status_code == 202]
    with rows.connect() as connection:
        staged = connection.execute(text("SELECT kwargs FROM outbox")).scalars().all()
        keys = connection.execute(text("SELECT request_id FROM send_requests")).scalars().all()
    assert staged == [{"gift_id": gift_id, "send_no": 1, "request_id": winner["request_id"]}]
    assert keys == [winner["request_id"]]
    assert send(server, gift_id, winner["request_id"]).status_code == 200


def test_a_hundred_creations_under_one_key_are_one_gift(server: WebServer, rows: Engine) -> None:
    answers = at_once(
        lambda _: requests.post(
            f"{server.url}/gifts",
            json={"amount": 5},
            headers={"Idempotency-Key": "new-1"},
            timeout=30,
        )
    )

    # 409 is "the first is still running": how many meet it is chance.
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in made}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in made].count(None) == 1
    assert contents(rows)["gifts"] == 1
