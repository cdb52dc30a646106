"""Whatever comes in: the one envelope, never a 500, nothing half written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from app import create_app, db
from app.config import Settings
from app.http.context import MAX_BODY_BYTES
from tests.integration.api import contents, empty, refused

A_GIFT = "/gifts/3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"
JSON = "application/json"


def body(**fields: Any) -> dict[str, Any]:
    """A request for a gift, as its own JSON: lone surrogates and all."""
    return {"data": json.dumps({"amount": 5, **fields}).encode(), "content_type": JSON}


def raw(data: bytes | str, content_type: str | None = JSON) -> dict[str, Any]:
    return {
        "data": data.encode() if isinstance(data, str) else data,
        "content_type": content_type,
    }


NOT_JSON = {
    "nothing": raw(b""),
    "blank": raw(b"  \n"),
    "cut off": raw(b'{"amount": 5'),
    "trailing comma": raw(b'{"amount": 5,}'),
    "two documents": raw(b'{"amount": 5} {"amount": 6}'),
    "comment": raw(b'{"amount": 5} // five'),
    "depth 1,000": raw(b"[" * 1_000 + b"]" * 1_000),
    "depth 1,000 in a field": raw(
        b'{"amount": 5, "message": ' + b'{"a":' * 1_000 + b"0" + b"}" * 1_001
    ),
    "depth 30,000": raw(b"[" * 30_000 + b"]" * 30_000),
    "a key twice": raw(b'{"amount": 5, "amount": 6}'),
    "NaN": raw(b'{"amount": NaN}'),
    "Infinity": raw(b'{"amount": -Infinity}'),
    "10,000 digits": raw(b'{"amount": ' + b"9" * 10_000 + b"}"),
    "UTF-16": raw('{"amount": 5}'.encode("utf-16")),
    "UTF-16 said to be so": raw('{"amount": 5}'.encode("utf-16"), f"{JSON}; charset=utf-16"),
    "byte order mark": raw(b'\xef\xbb\xbf{"amount": 5}'),
    "a surrogate as bytes": raw(b'{"amount": 5, "message": "\xed\xa0\x80"}'),
    "NUL as a byte": raw(b'{"amount": 5, "message": "\x00"}'),
    "gzip": raw(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
}

#: {what: (request, the field that is complained about)}
NOT_A_GIFT = {
    "null": (raw("null"), "_schema"),
    "a list": (raw("[]"), "_schema"),
    "a list of gifts": (raw('[{"amount": 5}]'), "_schema"),
    "a text": (raw('"amount"'), "_schema"),
    "no amount": (raw("{}"), "amount"),
    "amount null": (body(amount=None), "amount"),
    "amount true": (body(amount=True), "amount"),
    "amount 1.0": (body(amount=1.0), "amount"),
    "amount 1e2": (raw('{"amount": 1e2}'), "amount"),
    "amount 1e999": (raw('{"amount": 1e999}'), "amount"),
    'amount "100"': (body(amount="100"), "amount"),
    "amount in full-width digits": (body(amount="１００"), "amount"),
    "amount 0": (body(amount=0), "amount"),
    "amount -0": (raw('{"amount": -0}'), "amount"),
    "amount -1": (body(amount=-1), "amount"),
    "amount 2^31": (body(amount=2**31), "amount"),
    "amount 2^63": (body(amount=2**63), "amount"),
    "amount 10^100": (body(amount=10**100), "amount"),
    "amount a list": (body(amount=[5]), "amount"),
    "amount an object": (body(amount={"$gt": 0}), "amount"),
    "message too long": (body(message="x" * 501), "message"),
    "message a number": (body(message=5), "message"),
    "message a list": (body(message=["a"]), "message"),
    "message with NUL": (body(message="a\x00b"), "message"),
    "message with a high surrogate": (body(message="a\ud800b"), "message"),
    "message with a low surrogate": (body(message="\udfff"), "message"),
    "message with a pair the wrong way round": (body(message="\udc00\ud800"), "message"),
    "recipient too long": (body(recipient="x" * 321), "recipient"),
    "recipient with NUL": (body(recipient="\x00"), "recipient"),
    "recipient an object": (body(recipient={}), "recipient"),
    "unknown field": (body(colour="red"), "colour"),
    "unknown field with NUL": (body(**{"\x00": 1}), "\x00"),
    "unknown field with a surrogate": (body(**{"\ud800": 1}), "\ud800"),
    "field in another case": (body(Amount=5), "Amount"),
    "a state of its own choice": (body(status="SENT"), "status"),
    "a code of its own choice": (body(code=str(uuid4())), "code"),
    "an account of its own choice": (body(account_id=str(uuid4())), "account_id"),
    "simulate null": (body(simulate=None), "simulate"),
    "simulate a list": (body(simulate=[]), "simulate"),
    "simulate unknown": (body(simulate={"explode": True}), "simulate"),
    "fail_times below 0": (body(simulate={"fail_times": -1}), "simulate"),
    "fail_times 1.0": (body(simulate={"fail_times": 1.0}), "simulate"),
    "permanent 1": (body(simulate={"permanent": 1}), "simulate"),
    'permanent "true"': (body(simulate={"permanent": "true"}), "simulate"),
    "delay_ms over a minute": (body(simulate={"delay_ms": 60_001}), "simulate"),
}

NOT_SAID_TO_BE_JSON = {
    "no type": raw('{"amount": 5}', None),
    "text": raw('{"amount": 5}', "text/plain"),
    "a form": {"data": {"amount": "5"}},
    "a multipart form": {"data": {"amount": "5"}, "content_type": "multipart/form-data"},
    "XML": raw("<amount>5</amount>", "application/xml"),
    "nonsense": raw('{"amount": 5}', ";;;"),
}

QUERIES = {
    "limit": [
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=ten",
        "limit=1.5",
        "limit=1_0",
        "limit=%EF%BC%95",
        "limit=",
        f"limit={'9' * 3000}",
    ],
    "cursor": ["cursor=", "cursor=x", "cursor=%00", "cursor=%FF", "cursor=MjAyNi0wMS0wMQ=="],
    "status": ["status=", "status=LOST", "status=sent", "status=SENT%00"],
    "page": ["page=2"],
}

KEYS = {
    "missing": None,
    "empty": "",
    "blank": "   ",
    "256 characters": "k" * 256,
    "not ASCII": "clé",
    "a tab": "a\tb",
    "a control character": "a\x1fb",
    "DEL": "a\x7fb",
}

METHODS = [
    ("DELETE", "/gifts"),
    ("PUT", "/gifts"),
    ("PATCH", A_GIFT),
    ("POST", A_GIFT),
    ("DELETE", A_GIFT),
    ("GET", f"{A_GIFT}/send"),
    ("POST", f"{A_GIFT}/attempts"),
    ("POST", "/healthz"),
    ("TRACE", "/gifts"),
    ("BREW", "/gifts"),
]

PATHS = [
    "/",
    "/gift",
    "/gifts/",
    "/gifts/1",
    "/gifts/not-a-uuid",
    "/gifts/3f0c8a525d0c4f4e9f0e0d6f6f1f9a11",
    "/gifts/{3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11}",
    "/gifts/3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a1%00",
    "/gifts/３f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11",
    "/gifts/'%20OR%201=1--",
    "/gifts/../gifts",
    f"{A_GIFT}/",
    f"{A_GIFT}/unknown",
    "/api/v2/gifts",
    "/api/v1/api/v1/gifts",
    "/%ff%fe",
    "/docs/assets/../../../etc/passwd",
    "/docs/assets/%2e%2e/%2e%2e/conftest.py",
    "/docs/assets/no-such-file.css",
]


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    """One for all: none of these tests leaves anything but the local operator's account."""
    engine = db.configure(settings, db.API)
    yield engine
    empty(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def client(settings: Settings, engine: Engine) -> FlaskClient:
    return create_app(settings).test_client()


@pytest.fixture
def writes_nothing(engine: Engine) -> Iterator[None]:
    """After the test the tables are as they were before."""
    before = contents(engine)
    yield
    assert contents(engine) == before


pytestmark = pytest.mark.usefixtures("writes_nothing")


@pytest.mark.parametrize("request_", NOT_JSON.values(), ids=NOT_JSON)
def test_a_body_that_is_not_json(client: FlaskClient, request_: dict[str, Any]) -> None:
    error = refused(client.post("/gifts", **request_), 400, "VALIDATION_ERROR")

    assert error["message"].startswith("the body is not valid JSON: ")


@pytest.mark.parametrize(("request_", "field"), NOT_A_GIFT.values(), ids=NOT_A_GIFT)
def test_a_body_that_is_not_a_gift(
    client: FlaskClient, request_: dict[str, Any], field: str
) -> None:
    error = refused(client.post("/gifts", **request_), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {field}


@pytest.mark.parametrize(
    "request_", [request for request, _ in NOT_A_GIFT.values()][:3], ids=list(NOT_A_GIFT)[:3]
)
def test_a_bad_body_under_a_key_leaves_the_key_unused(
    client: FlaskClient, request_: dict[str, Any]
) -> None:
    response = client.post("/gifts", headers={"Idempotency-Key": "order-1"}, **request_)

    refused(response, 400, "VALIDATION_ERROR")
    assert response.headers["X-Request-ID"] == "order-1"


@pytest.mark.parametrize("request_", NOT_SAID_TO_BE_JSON.values(), ids=NOT_SAID_TO_BE_JSON)
def test_a_content_type_that_is_not_json(client: FlaskClient, request_: dict[str, Any]) -> None:
    refused(client.post("/gifts", **request_), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("path", ["/gifts", f"{A_GIFT}/send"])
def test_a_body_over_64_kib(client: FlaskClient, path: str) -> None:
    request = raw(b'{"amount": 5}'.ljust(MAX_BODY_BYTES + 1))

    refused(client.post(path, **request), 413, "PAYLOAD_TOO_LARGE")


def test_a_body_over_64_kib_whose_length_nobody_said(client: FlaskClient) -> None:
    """A chunked body: the server reads on until it is too much."""
    response = client.post(
        "/gifts",
        content_type=JSON,
        data=b'{"amount": 5}'.ljust(MAX_BODY_BYTES + 1),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
    )

    refused(response, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    ("field", "query"), [(field, query) for field, all_ in QUERIES.items() for query in all_]
)
def test_a_query_that_means_nothing(client: FlaskClient, field: str, query: str) -> None:
    error = refused(client.get(f"/gifts?{query}"), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {field}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_that_cannot_be_one(client: FlaskClient, key: str | None) -> None:
    headers = {"X-Request-ID": "trace-1", **({} if key is None else {"Idempotency-Key": key})}

    response = client.post(f"{A_GIFT}/send", headers=headers)

    error = refused(response, 400, "VALIDATION_ERROR")
    assert error["details"].keys() == {"Idempotency-Key"}
    assert response.headers["X-Request-ID"] == "trace-1", "what cannot be a key is no id either"


@pytest.mark.parametrize(
    "key", [key for key in KEYS.values() if key is not None], ids=list(KEYS)[1:]
)
def test_a_key_for_a_new_gift_that_cannot_be_one(client: FlaskClient, key: str) -> None:
    response = client.post("/gifts", json={"amount": 5}, headers={"Idempotency-Key": key})

    refused(response, 400, "VALIDATION_ERROR")


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_a_method_that_the_resource_does_not_have(
    client: FlaskClient, method: str, path: str
) -> None:
    response = client.open(path, method=method)

    refused(response, 405, "METHOD_NOT_ALLOWED")
    assert method not in response.headers["Allow"]
    assert {"GET", "POST"} & set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leads_nowhere(client: FlaskClient, path: str) -> None:
    refused(client.get(path), 404, "NOT_FOUND")


def test_a_doubled_slash_is_no_redirect_to_the_callers_host(client: FlaskClient) -> None:
    path = A_GIFT.replace("/gifts/", "/gifts//")
    refused(client.get(path, headers={"Host": "evil.example"}), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", A_GIFT), ("GET", f"{A_GIFT}/attempts"), ("POST", f"{A_GIFT}/send")]
)
def test_a_gift_that_does_not_exist(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method, headers={"Idempotency-Key": "order-1"})

    assert refused(response, 404, "NOT_FOUND")["message"] == "gift not found"


def test_a_simulation_where_the_sender_is_a_real_one(settings: Settings) -> None:
    client = create_app(replace(settings, sender="webhook")).test_client()

    error = refused(client.post("/gifts", **body(simulate={})), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {"simulate"}
