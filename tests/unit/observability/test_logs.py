"""One JSON line an event, whoever writes it; readable text for people."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.util import get_logger

from app.observability import context, logs

log = logging.getLogger("app.example")

#: Frameworks that set up their own loggers.
WITH_HANDLERS = ("gunicorn.error", "gunicorn.access", "celery", "multiprocessing")


class Output:
    """What was written to stdout since the last look."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def configure(self, *, style: Any = "json", level: str = "INFO") -> None:
        logs.configure(service="worker", level=level, style=style)

    def lines(self) -> list[str]:
        return self._capsys.readouterr().out.splitlines()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]

    def event(self) -> dict[str, Any]:
        (event,) = self.events()
        return event


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """Logging as it was before, once the test is over."""
    root = logging.getLogger()
    names = ["", *logs.QUIET, *logs.VERY_QUIET, *WITH_HANDLERS]
    before = {
        name: (logger.level, logger.propagate, list(logger.handlers))
        for name in names
        for logger in [logging.getLogger(name) if name else root]
    }
    yield Output(capsys)
    logging.captureWarnings(False)
    for name, (level, propagate, handlers) in before.items():
        logger = logging.getLogger(name) if name else root
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


def test_an_event_is_one_json_line_with_the_fields_of_the_design(output: Output) -> None:
    output.configure()

    log.info("gift queued", extra={"gift_id": "g-1", "status": "QUEUED", "duration_ms": 1.5})

    event = output.event()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("timestamp"))
    assert event == {
        "level": "info",
        "service": "worker",
        "message": "gift queued",
        "status": "QUEUED",
        "logger": "app.example",
        "gift_id": "g-1",
        "duration_ms": 1.5,
    }


def test_a_line_without_a_state_says_so(output: Output) -> None:
    output.configure()

    log.info("started")

    assert output.event()["status"] == "-"


@pytest.mark.parametrize(
    "level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]
)
def test_the_level_is_lower_case(output: Output, level: int) -> None:
    output.configure(level="DEBUG")

    log.log(level, "hello")

    assert output.event()["level"] == logging.getLevelName(level).lower()


def test_what_is_below_the_level_is_not_written(output: Output) -> None:
    output.configure(level="WARNING")

    log.info("chatter")

    assert output.lines() == []


def test_an_exception_stays_on_its_line(output: Output) -> None:
    output.configure()

    try:
        int("first\nsecond")
    except ValueError:
        log.exception("it\nfailed")

    event = output.event()
    assert event["message"] == "it\nfailed"
    assert event["stack"].endswith(r"'first\nsecond'")


@pytest.mark.parametrize("text", ["贈る", 'a "quoted"\tvalue', "\x1b[31mred\x1b[0m", "\u2028"])
def test_odd_text_stays_on_its_line_and_is_read_back(output: Output, text: str) -> None:
    output.configure()

    log.info("%s", text, extra={"error_message": text})

    event = output.event()
    assert (event["message"], event["error_message"]) == (text, text)


def test_the_context_is_in_every_line_inside_the_block_and_in_none_outside(output: Output) -> None:
    output.configure()

    with context.bound(request_id="r-1"), context.bound(task_id="t-1"):
        log.info("inside")
    log.info("outside")

    inside, outside = output.events()
    assert (inside["request_id"], inside["task_id"]) == ("r-1", "t-1")
    assert not {"request_id", "task_id"} & outside.keys()


def test_the_context_ends_with_an_exception(output: Output) -> None:
    output.configure()

    with pytest.raises(RuntimeError), context.bound(request_id="r-1"):
        raise RuntimeError
    log.info("outside")

    assert "request_id" not in output.event()


def test_what_a_call_passes_wins_over_the_context(output: Output) -> None:
    output.configure()

    with context.bound(gift_id="bound", status="bound"):
        log.info("hello", extra={"gift_id": "passed", "status": "passed"})

    event = output.event()
    assert (event["gift_id"], event["status"]) == ("passed", "passed")


def test_the_context_of_one_thread_is_not_seen_by_another(output: Output) -> None:
    output.configure()

    with context.bound(request_id="mine"):
        thread = threading.Thread(target=log.info, args=["theirs"])
        thread.start()
        thread.join()

    assert "request_id" not in output.event()


@pytest.mark.parametrize("name", WITH_HANDLERS)
def test_a_framework_that_has_handlers_of_its_own_writes_our_line_alone(
    output: Output, name: str
) -> None:
    framework = logging.getLogger(name)
    framework.addHandler(logging.StreamHandler(sys.stdout))
    framework.propagate = False
    output.configure()

    framework.warning("from the framework")

    event = output.event()
    assert (event["logger"], event["service"]) == (name, "worker")


def test_the_end_of_a_pool_process_is_our_line_too(output: Output) -> None:
    """billiard keeps its logger from propagating, when it first has something to say."""
    output.configure()

    get_logger().error("Process %r pid:%r exited with %r", "ForkPoolWorker-1", 7, "signal 9")

    assert output.event()["logger"] == "multiprocessing"


@pytest.mark.parametrize("name", ["celery.worker", "flask.app", "sqlalchemy.pool"])
def test_any_other_library_writes_our_line(output: Output, name: str) -> None:
    output.configure()

    logging.getLogger(name).warning("from the library")

    assert output.event()["logger"] == name


@pytest.mark.parametrize("name", logs.QUIET)
def test_chatty_libraries_are_heard_from_warning_on(output: Output, name: str) -> None:
    output.configure(level="DEBUG")

    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")

    assert [event["message"] for event in output.events()] == ["trouble"]


def test_warnings_are_events_too(output: Output) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Whoever captured before did so outside of this block: what they replaced is not here.
        logging.captureWarnings(False)
        output.configure()
        warnings.warn("this will go", DeprecationWarning, stacklevel=1)

    assert output.event()["logger"] == "py.warnings"


def test_what_celery_attaches_to_its_records_is_left_out(output: Output) -> None:
    """`data` holds a task's arguments."""
    output.configure()

    logging.getLogger("celery").warning("task received", extra={"data": {"args": "secret"}})

    assert "secret" not in json.dumps(output.event())


def test_text_is_for_people(output: Output) -> None:
    output.configure(style="text")

    with context.bound(request_id="order-1", http_request_id="h-1"):
        log.warning("gift failed", extra={"gift_id": "g-1", "status": "FAILED"})
    log.info("started")

    failed, started = output.lines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} WARNING gift failed gift_id=g-1 status=FAILED request_id=order-1",
        failed,
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    started", started)


def test_text_shows_the_stack_below_its_line(output: Output) -> None:
    output.configure(style="text")

    try:
        int("reason")
    except ValueError:
        log.exception("failed")

    first, *rest = output.lines()
    assert first.endswith("ERROR   failed")
    assert rest[0].startswith("Traceback")
    assert rest[-1].startswith("ValueError: ")


def test_auto_means_json_where_nobody_watches(output: Output) -> None:
    output.configure(style="auto")

    log.info("hello")

    assert output.event()["message"] == "hello"


def test_auto_means_text_on_a_terminal(
    output: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.configure(style="auto")

    log.info("hello")

    assert output.lines()[0].endswith("INFO    hello")


def test_a_text_line_is_one_line_whatever_it_holds() -> None:
    """It goes to terminals: a message from outside must neither steer one nor forge a line."""
    record = logging.LogRecord("app", logging.INFO, "", 0, "said %s", ("a\nb",), None)
    record.external_id = "\x1b[31m\nERROR forged"
    line = logs.TextLine().format(record)
    assert line.isprintable()
    assert "said a\\nb" in line
    assert "\\x1b[31m\\nERROR forged" in line
