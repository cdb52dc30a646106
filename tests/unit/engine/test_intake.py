"""What a message has to be to become a task, and what is left of it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engine.intake import BadMessage, Said, celery_message, foreign_message, peek

GOOD: dict[str, Any] = {
    "body": json.dumps([[], {"gift_id": "g"}, {}]),
    "headers": {"task": "gifts.send", "id": "1"},
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "properties": {"body_encoding": "utf-8"},
}


def changed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def headers(**more: Any) -> str:
    return changed(headers={**GOOD["headers"], **more})


def test_what_a_message_may_say_is_kept() -> None:
    envelope = celery_message(headers(request_id="order-1"), ["request_id", "traceparent"])
    assert json.loads(envelope["body"])[:2] == [[], {"gift_id": "g"}]
    said = envelope["headers"]
    assert (said["task"], said["id"], said["request_id"]) == ("gifts.send", "1", "order-1")


@pytest.mark.parametrize(
    "steering",
    [
        {"timelimit": "x"}, {"timelimit": [1, 1]}, {"eta": "never"}, {"expires": "2000-01-01"},
        {"stamps": {"a": 1}, "stamped_headers": ["a"]}, {"shadow": "other"}, {"retries": 99},
        {"group": "g"}, {"replaced_task_nesting": 10**9}, {"ignore_result": False},
        {"request_id": {"a": 1}}, {"request_id": "a\nb"}, {"request_id": "x" * 300},
    ],
    ids=lambda steering: ",".join(steering),
)  # fmt: skip
def test_a_message_cannot_steer_the_worker_by_its_headers(steering: dict[str, Any]) -> None:
    plain = celery_message(headers(), ["request_id"])
    assert celery_message(headers(**steering), ["request_id"]) == plain


def test_celerys_own_encodings_are_read() -> None:
    body = base64.b64encode(GOOD["body"].encode()).decode()
    inside = changed(body=body, properties={"body_encoding": "base64"})
    outside = base64.b64encode(inside.encode()).decode()
    assert celery_message(outside, ()) == celery_message(changed(), ())


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


BAD = {
    "no JSON": "plain",
    "half a surrogate": json.dumps({**GOOD, "headers": {"task": "\ud800", "id": "1"}}),
    "a list": "[1, 2]",
    "deep": "[" * 100_000,
    "no headers": changed(headers=None),
    "no id": changed(headers={"task": "gifts.send"}),
    "no task": changed(headers={"id": "1"}),
    "task is a number": headers(task=5),
    "control characters": headers(id="\x1b[31m"),
    "compressed": headers(compression="application/x-bz2"),
    "pickle": changed(**{"content-type": "application/x-python-serialize"}),
    "no properties": changed(properties=5),
    "body no text": changed(body=[[], {}, {}]),
    "body no JSON": changed(body="{not json"),
    "body no base64": changed(properties={"body_encoding": "base64"}),
    "two elements": changed(body="[[], {}]"),
    "kwargs a list": changed(body="[[], [], {}]"),
    "args a mapping": changed(body="[{}, {}, {}]"),
    "options a list": changed(body="[[], {}, []]"),
    "nested deeply": changed(body=json.dumps([[], {"x": nested(40)}, {}])),
    "a chain": changed(body=json.dumps([[], {}, {"chain": [{"task": "other"}]}])),
    "errbacks": changed(body=json.dumps([[], {}, {"errbacks": [{"task": "other"}]}])),
}


def test_arguments_may_be_nested_a_little() -> None:
    body = changed(body=json.dumps([[], {"x": nested(20)}, {}]))
    assert celery_message(body, ())["body"] == json.dumps(
        [[], {"x": nested(20)}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]
    )


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_what_is_no_task_is_refused_with_a_reason(body: str) -> None:
    with pytest.raises(BadMessage) as refused:
        celery_message(body, ())
    assert str(refused.value)


@pytest.mark.parametrize("encoded", [False, True])
def test_what_a_message_stands_for_is_read_though_no_worker_would_run_it(encoded: bool) -> None:
    body = json.dumps([[], {"gift_id": "g"}, {"chain": [{"task": "other"}]}])
    if encoded:
        body = base64.b64encode(body.encode()).decode()
    refused = changed(body=body, headers={"task": "gifts.send", "compression": "zap"})
    if encoded:
        refused = base64.b64encode(refused.encode()).decode()
    assert peek(refused) == Said("gifts.send", (), {"gift_id": "g"})


@pytest.mark.parametrize(
    "name", ["no JSON", "deep", "nested deeply", "kwargs a list", "task is a number"]
)
def test_what_says_nothing_is_nothing(name: str) -> None:
    assert peek(BAD[name]) is None


def test_a_message_of_a_foreign_queue_stands_for_its_queues_task() -> None:
    assert peek("anything", "orders.import") == Said("orders.import", ("anything",))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from([*GOOD, "new"]))
def test_nothing_else_comes_of_any_message(value: Any, place: str) -> None:
    body = json.dumps({**GOOD, place: value})
    try:
        envelope = celery_message(body, ("request_id",))
    except BadMessage:
        return
    assert json.loads(envelope["body"])[2] == dict.fromkeys(
        ("callbacks", "errbacks", "chain", "chord")
    )


@pytest.mark.parametrize("body", ['{"type": "task"}', "text", "[1, 2]", '{"properties": 5}', ""])
def test_a_foreign_message_is_the_argument_of_its_queues_task(body: str) -> None:
    envelope = foreign_message(body, "messages.receive", "m-1")
    assert json.loads(envelope["body"])[0] == [body]
    assert envelope["headers"]["task"] == "messages.receive"
    assert envelope["headers"]["id"] == "m-1"
