"""What every request gets: an id, a log line, its metrics, a prefix, and one shape of error."""

from __future__ import annotations

import json
import re
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.observability import context
from tests.integration.api import Events, contents, refused, samples

UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UNKNOWN = "/gifts/3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Idempotency-Key": "order-1", "X-Request-ID": "trace-1"}, "order-1"),
        ({"Idempotency-Key": "order-1"}, "order-1"),
        ({"X-Request-ID": "trace-1"}, "trace-1"),
        ({"X-Request-ID": "t" * 255}, "t" * 255),
        ({"Idempotency-Key": "k" * 256, "X-Request-ID": "trace-1"}, "trace-1"),
        ({"Idempotency-Key": " ", "X-Request-ID": "trace-1"}, "trace-1"),
    ],
)
@pytest.mark.parametrize("path", [UNKNOWN, "/no-such-path", "/healthz", "/gifts"])
def test_the_request_id_is_the_callers(
    client: FlaskClient, path: str, headers: dict[str, str], expected: str
) -> None:
    response = client.get(path, headers=headers)

    assert response.headers["X-Request-ID"] == expected
    if response.status_code >= 400:
        assert response.get_json()["request_id"] == expected


@pytest.mark.parametrize("given", [None, "", " ", "t" * 256, "tracé", "a\tb", "a\x7f"])
def test_without_a_usable_one_it_is_a_new_uuid(client: FlaskClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}

    ids = [client.get(UNKNOWN, headers=headers).headers["X-Request-ID"] for _ in range(2)]

    assert ids[0] != ids[1]
    assert all(UUID_TEXT.fullmatch(id_) for id_ in ids)


def test_the_ids_of_one_request_do_not_reach_the_next(client: FlaskClient) -> None:
    client.get(UNKNOWN, headers={"X-Request-ID": "trace-1"})

    assert context.fields() == {}, "the thread that served it is clean"
    assert client.get(UNKNOWN).headers["X-Request-ID"] != "trace-1"


# --- the log ------------------------------------------------------------------------------------


def test_a_request_is_one_line_with_its_ids_and_its_duration(
    client: FlaskClient, events: Events
) -> None:
    client.get(UNKNOWN, headers={"Idempotency-Key": "order-1", "X-Request-ID": "trace-1"})

    (event,) = events()
    assert event.pop("duration_ms") >= 0
    assert event.pop("timestamp")
    assert event == {
        "level": "info",
        "service": "api",
        "message": "GET /gifts/<uuid:gift_id>",
        "status": "404",
        "logger": "app.http.context",
        "gift_id": UNKNOWN.rpartition("/")[2],
        "request_id": "order-1",
        "http_request_id": "trace-1",
    }


@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz", "/metrics"])
def test_probes_are_logged_for_those_who_debug(
    client: FlaskClient, events: Events, path: str
) -> None:
    client.get(path)

    assert [event["level"] for event in events() if event["logger"] == "app.http.context"] == [
        "debug"
    ]


def test_a_path_that_leads_nowhere_is_not_quoted(client: FlaskClient, events: Events) -> None:
    client.get("/<script>/../../etc/passwd")

    assert [event["message"] for event in events()] == ["GET unmatched"]


def test_everything_a_send_logs_carries_its_ids(client: FlaskClient, events: Events) -> None:
    gift_id = client.post("/gifts", json={"amount": 5}).get_json()["gift_id"]
    events()

    client.post(
        f"/gifts/{gift_id}/send", headers={"Idempotency-Key": "order-1", "X-Request-ID": "trace-1"}
    )

    lines = events()
    assert [line["status"] for line in lines] == ["QUEUED", "202"]
    for line in lines:
        assert line["gift_id"] == gift_id
        assert line["request_id"] == "order-1"
        assert line["http_request_id"] == "trace-1"


# --- metrics ------------------------------------------------------------------------------------


def shown(client: FlaskClient, metric: str) -> dict[str, float]:
    return samples(client.get("/metrics").text, metric)


def test_requests_are_counted_by_route_and_not_by_path(client: FlaskClient) -> None:
    labels = 'method="GET",route="/gifts/<uuid:gift_id>",status="404"'
    before = shown(client, "okuru_http_requests_total").get(labels, 0)

    for last in "123":
        client.get(UNKNOWN[:-1] + last)

    after = shown(client, "okuru_http_requests_total")
    assert after[labels] == before + 3
    assert not [labels for labels in after if UNKNOWN[:20] in labels]


def test_odd_paths_and_methods_make_no_new_series(client: FlaskClient) -> None:
    client.open("/gifts", method="BREW")
    client.get("/brew")
    client.get("/metrics")  # Which is counted too.
    before = shown(client, "okuru_http_requests_total").keys()

    client.open("/gifts", method="STEEP")
    client.get("/steep")

    assert shown(client, "okuru_http_requests_total").keys() == before


def test_durations_are_in_seconds(client: FlaskClient) -> None:
    labels = 'method="GET",route="/gifts"'
    before = shown(client, "okuru_http_request_duration_seconds_sum").get(labels, 0)

    client.get("/gifts")

    spent = shown(client, "okuru_http_request_duration_seconds_sum")[labels] - before
    assert 0 < spent < 10


# --- errors -------------------------------------------------------------------------------------


def test_a_mistake_of_ours_tells_nothing_and_logs_the_stack(app: Flask, events: Events) -> None:
    @app.get("/mistake")
    def mistake() -> str:
        raise RuntimeError("password=hunter2")

    response = app.test_client().get("/mistake")

    error = refused(response, 500, "INTERNAL_ERROR")
    assert "hunter2" not in json.dumps(error)
    stacks = [event["stack"] for event in events() if event["level"] == "error"]
    assert len(stacks) == 1
    assert "RuntimeError" in stacks[0]


def test_a_failed_statement_shows_no_values_not_even_in_the_log(
    app: Flask, engine: Engine, events: Events
) -> None:
    @app.get("/mistake")
    def mistake() -> str:
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO users (id, email) VALUES (:id, NULL)"), {"id": "f" * 32}
            )
        return "never"

    refused(app.test_client().get("/mistake"), 500, "INTERNAL_ERROR")

    (stack,) = [event["stack"] for event in events() if event["level"] == "error"]
    assert "SQL parameters hidden" in stack


def test_head_answers_as_get_without_a_body(client: FlaskClient) -> None:
    found, missing = client.head("/gifts"), client.head(UNKNOWN)

    assert (found.status_code, found.data) == (200, b"")
    assert (missing.status_code, missing.data) == (404, b"")


# --- /api/v1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_every_path_is_also_served_under_the_prefix(client: FlaskClient, prefix: str) -> None:
    created = client.post(f"{prefix}/gifts", json={"amount": 5})
    assert created.status_code == 201
    location = created.headers["Location"]
    assert location == f"{prefix}/gifts/{created.get_json()['gift_id']}"

    assert client.get(location).get_json()["code"] == created.get_json()["code"]
    assert client.get(f"{location}/attempts").status_code == 200
    assert client.get(f"{prefix}/gifts").get_json()["items"]
    send = client.post(f"{location}/send", headers={"Idempotency-Key": "order-1"})
    assert send.status_code == 202
    for path in ("/healthz", "/health", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert client.get(prefix + path).status_code == 200, path


@pytest.mark.parametrize("path", ["/gifts/1", "/nowhere"])
def test_errors_under_the_prefix_have_the_same_shape(client: FlaskClient, path: str) -> None:
    refused(client.get(f"/api/v1{path}"), 404, "NOT_FOUND")


# --- secrets ------------------------------------------------------------------------------------


def test_a_gifts_code_and_its_texts_are_in_no_log_metric_message_or_error(
    client: FlaskClient, engine: Engine, events: Events
) -> None:
    texts = {"message": "for-your-eyes-only", "recipient": "hanako@example.com"}
    created = client.post(
        "/gifts", json={"amount": 5, **texts}, headers={"Idempotency-Key": "new-1"}
    ).get_json()
    gift = f"/gifts/{created['gift_id']}"
    answers = [
        client.post(f"{gift}/send", headers={"Idempotency-Key": "order-1"}),
        client.post(f"{gift}/send", headers={"Idempotency-Key": "order-1"}),
        client.post(f"{gift}/send", headers={"Idempotency-Key": "order-2"}),
        client.post(f"{gift}/send"),
        client.get(f"{gift}/attempts"),
        client.post("/gifts", json={"amount": 6, **texts}, headers={"Idempotency-Key": "new-1"}),
        client.post("/gifts", json={"amount": 0, **texts}),
        client.get("/metrics"),
    ]
    assert [answer.status_code for answer in answers] == [
        202, 200, 409, 400, 200, 422, 400, 200,
    ]  # fmt: skip
    assert contents(engine)["outbox"] == 1
    with engine.connect() as connection:
        outbox = connection.execute(text("SELECT to_jsonb(outbox)::text FROM outbox")).scalar_one()

    code = UUID(created["code"])
    written = "\n".join(
        [outbox, *(json.dumps(event) for event in events()), *(answer.text for answer in answers)]
    )
    assert created["gift_id"] in written
    for secret in (str(code), code.hex, *texts.values()):
        assert secret not in written
