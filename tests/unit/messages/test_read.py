"""`read`: what a message says, or one line on why it is none."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.messages.errors import MessageRefused
from app.messages.models import MAX_FOREIGN
from app.messages.service import Received, read
from app.notifications.models import MAX_BODY, MAX_TITLE
from app.strict_json import MAX_DEPTH

NOON = datetime(2023, 1, 1, 12, tzinfo=UTC)

# The customer's own, as they stand in their document.
TASK = """
   {
     "id": "msg-123",
     "type": "task",
     "data": {
       "taskId": "task-456",
       "priority": "high",
       "action": "process"
     },
     "timestamp": "2023-01-01T12:00:00Z"
   }
"""
NOTIFICATION = """
   {
     "id": "msg-456",
     "type": "notification",
     "data": {
       "recipientId": "user-789",
       "title": "新着情報",
       "body": "メッセージが届きました"
     },
     "timestamp": "2023-01-01T12:00:00Z"
   }
"""
DATA_SYNC = """
   {
     "id": "msg-789",
     "type": "data-sync",
     "data": {
       "entityType": "product",
       "entityId": "prod-123",
       "operation": "update"
     },
     "timestamp": "2023-01-01T12:00:00Z"
   }
"""
FROM_THE_CLI = (
    '{"id":"msg-123","type":"task","data":{"taskId":"task-456"},"timestamp":"2023-01-01T12:00:00Z"}'
)

VALID: dict[str, dict[str, Any]] = {
    kind: json.loads(text)
    for kind, text in (("task", TASK), ("notification", NOTIFICATION), ("data-sync", DATA_SYNC))
}


def message(kind: str = "task", *, without: str = "", **fields: Any) -> str:
    """A valid message of this type with other fields; one of `data` is named `data__name`."""
    inner = {
        name.removeprefix("data__"): value
        for name, value in fields.items()
        if name.startswith("data__")
    }
    outer = {name: value for name, value in fields.items() if not name.startswith("data__")}
    document = {**VALID[kind], "data": {**VALID[kind]["data"], **inner}, **outer}
    document.pop(without, None)
    if isinstance(document.get("data"), dict):
        document["data"].pop(without, None)
    return json.dumps(document)


def refusal(body: str) -> MessageRefused:
    with pytest.raises(MessageRefused) as refused:
        read(body)
    return refused.value


# --- what is one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "external_id", "kind", "payload", "priority"),
    [
        (TASK, "msg-123", "task", {"task_id": "task-456", "action": "process"}, 5),
        (FROM_THE_CLI, "msg-123", "task", {"task_id": "task-456", "action": "process"}, 0),
        (
            NOTIFICATION,
            "msg-456",
            "notification",
            {"recipient_id": "user-789", "title": "新着情報", "body": "メッセージが届きました"},
            0,
        ),
        (
            DATA_SYNC,
            "msg-789",
            "data-sync",
            {
                "entity_type": "product",
                "entity_id": "prod-123",
                "operation": "update",
                "attributes": {},
                "timestamp": "2023-01-01T12:00:00+00:00",
            },
            0,
        ),
    ],
    ids=["task", "task by the CLI", "notification", "data-sync"],
)
def test_the_customers_own_examples(
    body: str, external_id: str, kind: str, payload: dict[str, Any], priority: int
) -> None:
    found = read(body)

    assert found == Received(
        external_id=external_id,
        type=kind,
        version=1,
        sent_at=NOON,
        fingerprint=found.fingerprint,
        payload=payload,
        priority=priority,
    )
    assert len(found.fingerprint) == 32


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({"data__priority": "high"}, 5),
        ({"data__priority": "normal"}, 0),
        ({"data__priority": "low"}, -5),
        ({"without": "priority"}, 0),
    ],
    ids=["high", "normal", "low", "none"],
)
def test_a_tasks_priority_is_its_jobs(fields: dict[str, Any], priority: int) -> None:
    found = read(message(**fields))

    assert found.priority == priority
    assert "priority" not in found.payload, "the job has it"


@pytest.mark.parametrize(
    "body",
    [
        message(id="x"),
        message(id="x" * MAX_FOREIGN),
        message(id="🎁" * MAX_FOREIGN),  # characters, and not bytes or UTF-16 units
        message(id="'; DROP TABLE jobs; --"),
        message(id=" \t\n\x01\uffff"),
        message(version=1),
        message(data__taskId="t" * MAX_FOREIGN),
        message(data__action="a" * 40),
        message("notification", data__title="t" * MAX_TITLE, data__body="b" * MAX_BODY),
        message("notification", data__body=""),
        message("data-sync", data__operation="create", data__attributes={}),
        message("data-sync", data__operation="delete"),
        message("data-sync", data__attributes={"price": 1.5, "": [None, True, {"x": "é"}]}),
        message("data-sync", data__attributes={"digits": 10**4000}),
        "\n\t " + FROM_THE_CLI + "\r\n",
        FROM_THE_CLI.replace("msg-123", r"\u006dsg-\ud83c\udf81"),
    ],
    ids=lambda body: body[:60],
)
def test_what_is_within_the_limits_is_taken(body: str) -> None:
    assert read(body).sent_at == NOON


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(json.loads(TASK), indent=4),
        json.dumps(dict(reversed(json.loads(TASK).items()))),
        TASK.replace("msg", r"\u006dsg"),
    ],
    ids=["spaces", "order", "escapes"],
)
def test_how_it_is_written_is_not_what_it_says(body: str) -> None:
    assert read(body) == read(TASK)


@pytest.mark.parametrize(
    "other",
    [
        message(data__action="other"),
        message(without="priority"),
        message(timestamp="2023-01-01T12:00:01Z"),
        message(data__taskId="TASK-456"),
        message(id="msg-124"),
    ],
)
def test_another_message_has_another_fingerprint(other: str) -> None:
    assert read(other).fingerprint != read(TASK).fingerprint


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), (1, "1"), (0, None)])
def test_values_that_python_calls_equal_are_not(one: Any, other: Any) -> None:
    first = read(message("data-sync", data__attributes={"a": one}))
    second = read(message("data-sync", data__attributes={"a": other}))

    assert first.fingerprint != second.fingerprint


# --- what is none -------------------------------------------------------------------------------

deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)

#: {what: (body, code, words of the reason)}
BAD: dict[str, tuple[str, str, str]] = {
    # no JSON
    "nothing": ("", "INVALID_JSON", "Expecting value"),
    "blank": (" \n", "INVALID_JSON", "Expecting value"),
    "words": ("hello", "INVALID_JSON", "Expecting value"),
    "cut off": (TASK[:100], "INVALID_JSON", "line"),
    "two documents": (FROM_THE_CLI * 2, "INVALID_JSON", "Extra data"),
    "trailing comma": (FROM_THE_CLI[:-1] + ",}", "INVALID_JSON", "line 1 column"),
    "single quotes": (FROM_THE_CLI.replace('"', "'"), "INVALID_JSON", "property name"),
    "byte order mark": ("\ufeff" + FROM_THE_CLI, "INVALID_JSON", "BOM"),
    "XML": ("<message/>", "INVALID_JSON", "Expecting value"),
    "null": ("null", "INVALID_JSON", "no JSON object"),
    "a list": (f"[{FROM_THE_CLI}]", "INVALID_JSON", "no JSON object"),
    "a text": (json.dumps(FROM_THE_CLI), "INVALID_JSON", "no JSON object"),
    "a number": ("1e999", "INVALID_JSON", "no JSON object"),
    "a key twice": (FROM_THE_CLI[:-1] + ',"id":"msg-124"}', "INVALID_JSON", "stands twice"),
    "a key twice in data": (
        FROM_THE_CLI.replace('"taskId"', '"taskId":"a","taskId"'),
        "INVALID_JSON",
        "stands twice",
    ),
    "NaN": (FROM_THE_CLI.replace('"task-456"', "NaN"), "INVALID_JSON", "NaN is not a JSON number"),
    "5,000 digits": (
        FROM_THE_CLI.replace('"task-456"', "9" * 5000),
        "INVALID_JSON",
        "a number is too long",
    ),
    "too deep": (
        FROM_THE_CLI.replace('"task-456"', deep),
        "INVALID_JSON",
        "nested too deeply",
    ),
    "10,000 deep": ("[" * 10_000, "INVALID_JSON", "nested too deeply"),
    "too long": (message(title="x" * 65_536), "INVALID_MESSAGE", "at most 65536 bytes"),
    "from the far future": (
        message(timestamp="9999-12-31T23:59:59Z"),
        "INVALID_MESSAGE",
        "ahead of our clock",
    ),
    "a raw NUL": (FROM_THE_CLI.replace("task-4", "task\x00"), "INVALID_JSON", "control character"),
    "a raw surrogate": (FROM_THE_CLI.replace("task-4", "task\ud800"), "INVALID_JSON", "not UTF-8"),
    # no such type or version
    "an unknown type": (message(type="order"), "UNKNOWN_MESSAGE_TYPE", "order is none of task, "),
    "a type in capitals": (message(type="Task"), "UNKNOWN_MESSAGE_TYPE", "Task is none of"),
    "an empty type": (message(type=""), "UNKNOWN_MESSAGE_TYPE", "is none of"),
    "a type with NUL": (message(type="task\x00"), "UNKNOWN_MESSAGE_TYPE", "unprintable"),
    "a type with a surrogate": (message(type="\ud800"), "UNKNOWN_MESSAGE_TYPE", "unprintable"),
    "a type of our own": (message(type="user_created"), "UNKNOWN_MESSAGE_TYPE", "user_created"),
    "version 2": (message(version=2), "UNKNOWN_MESSAGE_VERSION", "no version 2 of task"),
    "the last version": (message(version=2**31 - 1), "UNKNOWN_MESSAGE_VERSION", "of task"),
    "a version of 31 digits": (message(version=10**30), "INVALID_MESSAGE", "version: "),
    "version 0": (message(version=0), "INVALID_MESSAGE", "version: "),
    "version -1": (message(version=-1), "INVALID_MESSAGE", "version: "),
    "version true": (message(version=True), "INVALID_MESSAGE", "version: "),
    "version 1.0": (message(version=1.0), "INVALID_MESSAGE", "version: "),
    'version "1"': (message(version="1"), "INVALID_MESSAGE", "version: "),
    "version null": (message(version=None), "INVALID_MESSAGE", "version: "),
    "version 1e999": (
        FROM_THE_CLI[:-1] + ',"version":1e999}',
        "INVALID_MESSAGE",
        "version: ",
    ),
    # the envelope
    "empty": ("{}", "INVALID_MESSAGE", "id: "),
    "no id": (message(without="id"), "INVALID_MESSAGE", "id: Missing"),
    "no type": (message(without="type"), "INVALID_MESSAGE", "type: Missing"),
    "no data": (message(without="data"), "INVALID_MESSAGE", "data: Missing"),
    "no timestamp": (message(without="timestamp"), "INVALID_MESSAGE", "timestamp: Missing"),
    "id null": (message(id=None), "INVALID_MESSAGE", "id: "),
    "id a number": (message(id=123), "INVALID_MESSAGE", "id: "),
    "id empty": (message(id=""), "INVALID_MESSAGE", "id: "),
    "id of 256": (message(id="x" * 256), "INVALID_MESSAGE", "id: "),
    "id with NUL": (message(id="a\x00"), "INVALID_MESSAGE", "id: Must not contain NUL"),
    "id with a surrogate": (message(id="\udfff"), "INVALID_MESSAGE", "id: Must not contain"),
    "type a list": (message(type=["task"]), "INVALID_MESSAGE", "type: "),
    "type an object": (message(type={"task": 1}), "INVALID_MESSAGE", "type: "),
    "type null": (message(type=None), "INVALID_MESSAGE", "type: "),
    "data null": (message(data=None), "INVALID_MESSAGE", "data: "),
    "data a list": (message(data=[]), "INVALID_MESSAGE", "data: "),
    "data a text": (message(data='{"taskId": "a"}'), "INVALID_MESSAGE", "data: "),
    "an unknown field": (message(source="erp"), "INVALID_MESSAGE", "source: Unknown field"),
    "a job of its choice": (message(job_id="1"), "INVALID_MESSAGE", "job_id: Unknown field"),
    # the data of each type
    "no taskId": (message(without="taskId"), "INVALID_MESSAGE", "data.taskId: Missing"),
    "task_id": (message(data__task_id="a"), "INVALID_MESSAGE", "data.task_id: Unknown field"),
    "taskId empty": (message(data__taskId=""), "INVALID_MESSAGE", "data.taskId: "),
    "taskId of 256": (message(data__taskId="x" * 256), "INVALID_MESSAGE", "data.taskId: "),
    "taskId with NUL": (message(data__taskId="\x00"), "INVALID_MESSAGE", "data: Must not contain"),
    "taskId a number": (message(data__taskId=456), "INVALID_MESSAGE", "data.taskId: "),
    "priority 5": (message(data__priority=5), "INVALID_MESSAGE", "data.priority: "),
    "priority urgent": (message(data__priority="urgent"), "INVALID_MESSAGE", "data.priority: "),
    "priority HIGH": (message(data__priority="HIGH"), "INVALID_MESSAGE", "data.priority: "),
    "priority null": (message(data__priority=None), "INVALID_MESSAGE", "data.priority: "),
    "priority a list": (message(data__priority=["high"]), "INVALID_MESSAGE", "data.priority: "),
    "action empty": (message(data__action=""), "INVALID_MESSAGE", "data.action: "),
    "action of 41": (message(data__action="a" * 41), "INVALID_MESSAGE", "data.action: "),
    "a task with another's data": (
        message(data=VALID["notification"]["data"]),
        "INVALID_MESSAGE",
        "data.recipientId: Unknown field",
    ),
    "no recipientId": (
        message("notification", without="recipientId"),
        "INVALID_MESSAGE",
        "data.recipientId: Missing",
    ),
    "title empty": (message("notification", data__title=""), "INVALID_MESSAGE", "data.title: "),
    "title too long": (
        message("notification", data__title="t" * (MAX_TITLE + 1)),
        "INVALID_MESSAGE",
        "data.title: ",
    ),
    "body too long": (
        message("notification", data__body="b" * (MAX_BODY + 1)),
        "INVALID_MESSAGE",
        "data.body: ",
    ),
    "a notification with a priority": (
        message("notification", data__priority="high"),
        "INVALID_MESSAGE",
        "data.priority: Unknown field",
    ),
    "entityId of 256": (
        message("data-sync", data__entityId="x" * 256),
        "INVALID_MESSAGE",
        "data.entityId: ",
    ),
    "operation upsert": (
        message("data-sync", data__operation="upsert"),
        "INVALID_MESSAGE",
        "data.operation: ",
    ),
    "no operation": (
        message("data-sync", without="operation"),
        "INVALID_MESSAGE",
        "data.operation: Missing",
    ),
    "attributes a list": (
        message("data-sync", data__attributes=[]),
        "INVALID_MESSAGE",
        "data.attributes: ",
    ),
    "attributes null": (
        message("data-sync", data__attributes=None),
        "INVALID_MESSAGE",
        "data.attributes: ",
    ),
    "an attribute with NUL": (
        message("data-sync", data__attributes={"a": ["\x00"]}),
        "INVALID_MESSAGE",
        "data: Must not contain NUL",
    ),
    "an attribute's name with a surrogate": (
        message("data-sync", data__attributes={"\udc00": 1}),
        "INVALID_MESSAGE",
        "data: Must not contain NUL",
    ),
    "an attribute of 1e999": (
        message("data-sync", data__attributes={"a": "?"}).replace('"?"', "-1e999"),
        "INVALID_MESSAGE",
        "infinite numbers",
    ),
    "a timestamp in data": (
        message("data-sync", data__timestamp="2099-01-01T00:00:00Z"),
        "INVALID_MESSAGE",
        "data.timestamp: Unknown field",
    ),
}


@pytest.mark.parametrize(("body", "code", "words"), BAD.values(), ids=BAD)
def test_what_is_no_message_is_refused_with_a_code_and_a_reason(
    body: str, code: str, words: str
) -> None:
    refused = refusal(body)

    assert (refused.code, words in refused.message) == (code, True), refused.message


def test_all_that_is_wrong_is_told_at_once() -> None:
    refused = refusal(message(id="", timestamp="now", source="erp"))

    for name in ("id: ", "timestamp: ", "source: "):
        assert name in refused.message


SECRET = "hunter2-hunter2-hunter2"
PLACES = [
    message(id=[SECRET]),
    message(timestamp=SECRET),
    message(version=SECRET),
    message(data=SECRET),
    message(data=[SECRET]),
    message(data__taskId=[SECRET]),
    message(data__priority=SECRET),
    message(data__action=SECRET * 4),
    message(data__password=SECRET),
    message(data__taskId=f"{SECRET}\x00"),
    message("notification", data__title=SECRET * 20),
    message("data-sync", data__operation=SECRET),
    message("data-sync", data__attributes=[SECRET]),
    message("data-sync", data__attributes={"a": f"{SECRET}\ud800"}),
    message(data__taskId=SECRET)[:-1],
    message(data__taskId=SECRET) + SECRET,
    SECRET,
    json.dumps(SECRET),
    '{"data": {"a": "' + SECRET + '", "a": 1}}',
    '{"data": "' + SECRET + '\x00"}',
]


@pytest.mark.parametrize("body", PLACES)
def test_a_reason_never_quotes_what_stands_in_a_message(body: str) -> None:
    refused = refusal(body)

    assert "hunter2" not in f"{refused.message} {refused!r} {refused.details}"
    # The error that led to it would stand in a traceback.
    assert refused.__suppress_context__ or refused.__context__ is None


def test_a_type_is_named_and_cut_off() -> None:
    assert len(refusal(message(type="x" * 100_000)).message) < 200


def test_a_version_that_is_a_whole_book_is_not_repeated() -> None:
    assert len(refusal(message(version=10**4000)).message) < 200


# --- when ---------------------------------------------------------------------------------------

TIMESTAMPS: dict[str, datetime] = {
    "2023-01-01T12:00:00Z": NOON,
    "2023-01-01T12:00:00+00:00": NOON,
    "2023-01-01T12:00:00-00:00": NOON,  # RFC 3339: UTC, where the sender is not known
    "2023-01-01T21:00:00+09:00": NOON,
    "2023-01-01T06:30:00-05:30": NOON,
    "2023-01-02T11:59:00+23:59": NOON,
    "2023-01-01t12:00:00z": NOON,
    "2023-01-01 12:00:00Z": NOON,  # section 5.6: a space, for the sake of readability
    "2023-01-01T12:00:00.1Z": NOON.replace(microsecond=100_000),
    "2023-01-01T12:00:00.123456Z": NOON.replace(microsecond=123_456),
    "2023-01-01T12:00:00.123456789Z": NOON.replace(microsecond=123_456),
    f"2023-01-01T12:00:00.{'9' * 500}Z": NOON.replace(microsecond=999_999),
    "2024-02-29T12:00:00Z": datetime(2024, 2, 29, 12, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "1970-01-01T00:00:00Z": datetime(1970, 1, 1, tzinfo=UTC),
    # A leap second, as everywhere where there are none: the next day begins.
    "2016-12-31T23:59:60Z": datetime(2017, 1, 1, tzinfo=UTC),
    "2016-12-31T15:59:60-08:00": datetime(2017, 1, 1, tzinfo=UTC),
    "2017-01-01T08:59:60.5+09:00": datetime(2017, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC),
}

NO_TIMESTAMPS: list[Any] = [
    "2023-01-01T12:00:00",  # no offset: nobody knows when
    "2023-01-01 12:00:00",
    "2023-01-01T12:00:00 Z",
    "2023-01-01T12:00:00 +09:00",
    "2023-01-01T12:00:00+9:00",
    "2023-01-01T12:00:00+0900",
    "2023-01-01T12:00:00+09",
    "2023-01-01T12:00:00+24:00",
    "2023-01-01T12:00:00+12:60",
    "2023-01-01T12:00:00+00:00:30",
    "2023-01-01T12:00:00UTC",
    "2023-01-01T12:00:00JST",
    "2023-01-01T12:00Z",
    "2023-01-01Z",
    "2023-01-01",
    "2023-01-01T12:00:00,5Z",
    "2023-01-01T12:00:00.Z",
    "2023-01-01_12:00:00Z",
    "2023-01-01  12:00:00Z",
    "20230101T120000Z",
    "2023-1-1T12:00:00Z",
    "2023-W01-1T12:00:00Z",
    "2023-001T12:00:00Z",
    "2023-02-29T12:00:00Z",
    "2023-13-01T12:00:00Z",
    "2023-00-01T12:00:00Z",
    "2023-01-32T12:00:00Z",
    "2023-01-01T24:00:00Z",
    "2023-01-01T25:00:00Z",
    "2023-01-01T12:60:00Z",
    "2023-01-01T12:00:61Z",
    "2023-01-01T12:00:60Z",  # no leap second: it is not midnight
    "2016-12-30T23:59:60Z",  # nor the end of a month
    "2016-12-31T23:59:60+09:00",  # in UTC it is neither
    "9999-12-31T23:59:60Z",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "-001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "２０２３-01-01T12:00:00Z",
    " 2023-01-01T12:00:00Z",
    "2023-01-01T12:00:00Z\n",
    "2023-01-01T12:00:00Z\x00",
    "Sun, 01 Jan 2023 12:00:00 GMT",
    "now",
    "",
    None,
    True,
    0,
    1672574400,
    1672574400.5,
    1e300,
    ["2023-01-01T12:00:00Z"],
    {"$date": "2023-01-01T12:00:00Z"},
]


@pytest.mark.parametrize(("text", "moment"), TIMESTAMPS.items(), ids=lambda it: str(it)[:40])
def test_a_timestamp_of_rfc_3339_is_taken_whatever_its_age(text: str, moment: datetime) -> None:
    found = read(message("data-sync", timestamp=text))

    assert found.sent_at == moment
    assert found.sent_at.tzinfo is UTC
    assert datetime.fromisoformat(found.payload["timestamp"]) == moment


@pytest.mark.parametrize("value", NO_TIMESTAMPS, ids=repr)
def test_what_is_no_timestamp_of_rfc_3339_is_refused(value: Any) -> None:
    refused = refusal(message(timestamp=value))

    assert refused.code == "INVALID_MESSAGE"
    assert refused.message.startswith("timestamp: ")


# --- anything -----------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]))
    | st.sampled_from(["task", "2023-01-01T12:00:00Z", "create", "high", "9" * 400, "x" * 256])
)
anything = st.recursive(
    scalars,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=6,
)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_read_or_refused_and_nothing_else(body: str) -> None:
    with suppress(MessageRefused):
        read(body)


@given(st.sampled_from(sorted(VALID)), st.data())
def test_any_value_anywhere_is_read_or_refused_and_nothing_else(kind: str, data: Any) -> None:
    valid = VALID[kind]
    names = st.sampled_from(
        [*valid, *(f"data__{name}" for name in valid["data"]), "version", "data__attributes"]
    )
    body = message(kind, **data.draw(st.dictionaries(names, anything, min_size=1, max_size=3)))

    with suppress(MessageRefused):
        found = read(body)
        json.dumps(found.payload, allow_nan=False).encode()
        assert 0 < len(found.external_id) <= MAX_FOREIGN
