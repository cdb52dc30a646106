"""Remote control: what is refused, what a stuck loop does, what an outage says and how often."""

from __future__ import annotations

import base64
import bz2
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.exceptions import WorkerShutdown
from celery.worker import state as worker_state
from click.testing import CliRunner
from kombu.asynchronous import Hub

from tasks.engine import control
from tasks.engine.catalogue import Catalogue
from tasks.engine.commands import REFUSED, Refused
from tasks.engine.control import Control, Listener, Node, Unreachable, node_of
from tests.acceptance.client import wait_until

#: Nothing listens on port 1.
NOWHERE = "redis://:open-sesame@127.0.0.1:1/0"
SOON = 10.0


class Pool:
    def __init__(self) -> None:
        self.num_processes = 3

    def grow(self, n: int) -> None:
        self.num_processes += n

    def shrink(self, n: int) -> None:
        self.num_processes -= n


class Consumer:
    """What commands touch of a worker's consumer, around a real event loop."""

    hostname = "worker@here"

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.hub = Hub()
        self.pool = Pool()
        self.controller = SimpleNamespace(autoscaler=None)
        self.strategies: dict[str, Any] = {}
        self.queues = ["gifts"]
        self.call_soon = self.hub.call_soon
        self.ended_by: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="event-loop", daemon=True)

    def _run(self) -> None:
        try:
            self.hub.run_forever()
        except BaseException as error:  # noqa: BLE001
            self.ended_by = error

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.hub.stop()
            self._thread.join(SOON)
        self.hub.close()

    def _update_prefetch_count(self, by: int) -> None:
        pass

    def add_task_queue(self, queue: str, *_: Any) -> None:
        self.queues.append(queue)

    def cancel_task_queue(self, queue: str) -> None:
        self.queues.remove(queue)


class Engine:
    """Of a worker for gifts and maintenance, and not of one for jobs."""

    catalogue = Catalogue.load("https://sqs.example/1/okuru-")
    groups = ("worker",)

    def __init__(self) -> None:
        self.stops = 0

    @property
    def is_stopping(self) -> bool:
        return self.stops > 0

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def app() -> Celery:
    app = Celery("control-tests", set_as_current=False)
    app.engine = Engine()
    control.install(app, NOWHERE, pool_size=2)
    return app


@pytest.fixture
def consumer(app: Celery) -> Iterator[Consumer]:
    consumer = Consumer(app)
    yield consumer
    consumer.stop()


@pytest.fixture
def node(consumer: Consumer) -> Node:
    return node_of(consumer)


@pytest.fixture
def ask(node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Send a command as its message would come. Returns the reply, or None."""

    def ask(method: str, **arguments: Any) -> Any:
        replies: list[Any] = []
        monkeypatch.setattr(node, "reply", lambda data, **_: replies.append(data))
        node.handle_message(
            {
                "method": method,
                "arguments": arguments,
                "reply_to": {"exchange": "replies", "routing_key": "me"},
                "ticket": "1",
            }
        )
        assert len(replies) <= 1
        return replies[0][node.hostname] if replies else None

    return ask


# --- whoever asks ---


@pytest.mark.parametrize(
    "call",
    [
        lambda control: control.revoke("id"),
        lambda control: control.revoke("id", terminate=True, connection=object()),
        lambda control: control.terminate("id"),
        lambda control: control.revoke_by_stamped_headers({"a": "b"}),
        lambda control: control.broadcast("revoke", {"task_id": "id"}),
        lambda control: control.purge(),
        lambda control: control.purge(connection=object()),
        lambda control: control.discard_all(),
    ],
)
def test_what_deletes_unrun_tasks_is_refused_before_anything_is_sent(
    app: Celery, call: Callable[[Control], Any]
) -> None:
    with pytest.raises(Refused, match=r"is refused: .*(never ran|never runs)") as error:
        call(app.control)
    assert error.value.exit_code != 0


def test_purging_is_refused_without_a_question(app: Celery) -> None:
    result = CliRunner().invoke(control.purge_command, [], obj=SimpleNamespace(app=app))
    assert result.exit_code != 0
    assert result.output == "Error: purge is refused: it deletes messages whose tasks never ran\n"


def test_a_worker_that_is_to_purge_first_does_not_start(app: Celery) -> None:
    with pytest.raises(SystemExit, match="purge is refused"):
        signals.celeryd_init.send(sender="worker", instance=None, options={"purge": True})
    signals.celeryd_init.send(sender="worker", instance=None, options={"purge": False})


def test_an_unreachable_control_plane_is_one_line_without_the_password(app: Celery) -> None:
    with pytest.raises(Unreachable) as error:
        app.control.ping(timeout=0.1)
    assert error.value.exit_code != 0
    assert error.value.message.startswith("the control plane at 127.0.0.1:1 cannot be reached: ")
    assert "\n" not in error.value.message
    assert "open-sesame" not in error.value.message


def test_the_address_of_the_control_plane_is_no_setting(app: Celery) -> None:
    """`celery inspect conf` and `report` show them."""
    shown = str(app.conf.table(with_defaults=True)) + app.bugreport()
    assert "open-sesame" not in shown


@pytest.mark.parametrize(
    ("url", "demanded"),
    [
        ("rediss://cache.example:6379/0", {"ssl_cert_reqs": control.ssl.CERT_REQUIRED}),
        (
            "rediss://cache.example:6379/0?ssl_cert_reqs=none",
            {"ssl_cert_reqs": control.ssl.CERT_NONE},
        ),
        ("redis://cache.example:6379/0", False),
    ],
)
def test_certificates_are_checked_unless_the_url_says_otherwise(url: str, demanded: Any) -> None:
    assert control.connect(url, 2).ssl == demanded


# --- the worker ---


def test_a_command_runs_on_the_event_loop(
    ask: Callable[..., Any], consumer: Consumer, node: Node
) -> None:
    node.handlers["where"] = lambda state: {"ok": threading.current_thread().name}
    consumer.start()
    assert ask("where") == {"ok": "event-loop"}
    assert ask("ping") == {"ok": "pong"}


def test_a_command_that_asks_for_no_reply_gets_none(
    node: Node, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    ran = threading.Event()
    node.handlers["mark"] = lambda state: ran.set()
    consumer.start()
    Listener(node, lambda: None)._on_message({"method": "mark", "arguments": {}}, None)
    assert ran.is_set()
    assert not caplog.records


def test_a_stuck_event_loop_gives_no_reply_and_runs_no_command_later(
    ask: Callable[..., Any], consumer: Consumer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "COMMAND_TIMEOUT", 0.05)
    ran: list[str] = []
    node.handlers["late"] = lambda state: ran.append("late")
    node.handlers["now"] = lambda state: ran.append("now")
    assert ask("late") is None  # the loop does not run yet
    monkeypatch.setattr(control, "COMMAND_TIMEOUT", SOON)
    consumer.start()
    ask("now")
    assert ran == ["now"]


@pytest.mark.parametrize("command", ["fails", "unheard-of"])
def test_a_command_that_fails_is_answered_and_ends_nothing(
    ask: Callable[..., Any], consumer: Consumer, node: Node, command: str
) -> None:
    def fails(state: Any) -> None:
        raise TimeoutError("of its own")

    node.handlers["fails"] = fails
    consumer.start()
    assert set(ask(command)) == {"error"}
    assert ask("ping") == {"ok": "pong"}


def test_a_worker_shutdown_reaches_the_event_loop(consumer: Consumer) -> None:
    def shutdown() -> None:
        raise WorkerShutdown(0)

    consumer.call_soon(control._execute, Future(), "shutdown", shutdown)
    consumer.start()
    wait_until(lambda: isinstance(consumer.ended_by, WorkerShutdown), within=SOON)


def test_a_reply_may_hold_what_json_does_not_know(
    ask: Callable[..., Any], consumer: Consumer, node: Node
) -> None:
    node.handlers["odd"] = lambda state: {"engine": state.app.engine, "set": {1}}
    consumer.start()
    reply = ask("odd")
    assert reply["set"] == "{1}"
    assert "Engine object" in reply["engine"]


@pytest.mark.parametrize("command", sorted(REFUSED))
def test_a_worker_refuses_what_another_client_may_send(
    ask: Callable[..., Any], consumer: Consumer, command: str
) -> None:
    consumer.start()
    reply = ask(command, task_id=["id"], headers=["a=b"], revoked=["id"], from_node="other@here")
    assert reply == {"error": f"{command} is refused: {REFUSED[command]}"}
    assert "id" not in worker_state.revoked
    assert not worker_state.revoked_stamps


def test_queues_are_those_of_the_catalogue(ask: Callable[..., Any], consumer: Consumer) -> None:
    consumer.start()
    for command in ("add_consumer", "cancel_consumer"):
        assert ask(command, queue="other") == {
            "error": "no queue of the catalogue: other (there is gifts, jobs-high, jobs-default, "
            "jobs-low, inbox, maintenance)"
        }
        assert ask(command, queue="jobs-high") == {
            "error": "jobs-high is for other workers than this one"
        }
    assert "ok" in ask("add_consumer", queue="maintenance", exchange="x", exchange_type="fanout")
    wait_until(lambda: consumer.queues == ["gifts", "maintenance"], within=SOON)
    assert "ok" in ask("cancel_consumer", queue="gifts")
    wait_until(lambda: consumer.queues == ["maintenance"], within=SOON)


@pytest.mark.parametrize(
    ("command", "n", "left"),
    [
        ("pool_grow", 2, 5),
        ("pool_shrink", 2, 1),
        ("pool_shrink", 3, None),
        ("pool_shrink", -1, None),
        ("pool_grow", 0, None),
        ("pool_grow", -1, None),
        ("pool_grow", 9, 12),
        ("pool_grow", 10, None),
    ],
)
def test_a_pool_keeps_at_least_one_process_and_fills_no_machine(
    ask: Callable[..., Any], consumer: Consumer, command: str, n: int, left: int | None
) -> None:
    consumer.app.conf.worker_concurrency = 3
    consumer.start()
    assert set(ask(command, n=n)) == {"error" if left is None else "ok"}
    assert consumer.pool.num_processes == (left or 3)


@pytest.mark.parametrize("limit", ["-1/s", "x", "nan", "1/x", "1e-9/s", "1e9/s", -1])
def test_a_rate_that_the_event_loop_would_not_outlive_is_refused(
    ask: Callable[..., Any], consumer: Consumer, limit: Any
) -> None:
    consumer.start()
    assert "no rate" in ask("rate_limit", task_name="celery.ping", rate_limit=limit)["error"]


@pytest.mark.parametrize(
    ("soft", "hard"), [(0.001, None), (None, "x"), (-1, 5), (5, 5), (1, float("inf")), (1, True)]
)
def test_a_time_limit_that_is_none_is_refused(
    ask: Callable[..., Any], consumer: Consumer, soft: Any, hard: Any
) -> None:
    consumer.start()
    assert "error" in ask("time_limit", task_name="celery.ping", soft=soft, hard=hard)


def test_a_time_limit_that_is_not_named_stays(ask: Callable[..., Any], consumer: Consumer) -> None:
    """Without a hard limit, a task that swallows the soft one would hold its process for ever."""
    consumer.start()

    # No consumer stands behind this one, to be told.
    @consumer.app.task(name="slow", shared=False, start_strategy=lambda *_: None)
    def slow() -> None:
        pass

    task = consumer.app.tasks["slow"]
    assert "ok" in ask("time_limit", task_name="slow", soft=5, hard=9)
    assert "ok" in ask("time_limit", task_name="slow", soft=8)
    assert (task.soft_time_limit, task.time_limit) == (8, 9)
    assert "before the hard one" in ask("time_limit", task_name="slow", soft=9)["error"]


def test_a_regular_expression_is_not_tried(node: Node, consumer: Consumer) -> None:
    """It could run for years, and hold the interpreter all that time."""
    consumer.start()
    asked = {"method": "shutdown", "pattern": "(.|.)*!", "matcher": "pcre"}
    Listener(node, lambda: None)._on_message(asked, None)
    Listener(node, lambda: None)._on_message({**asked, "pattern": ".*"}, None)
    assert consumer.app.engine.stops == 0
    glob = {"method": "shutdown", "pattern": "worker@*", "matcher": "glob"}
    Listener(node, lambda: None)._on_message(glob, None)
    assert consumer.app.engine.stops == 1


def test_a_compressed_control_message_stays_small() -> None:
    raw = {
        "body": base64.b64encode(bz2.compress(b"0" * 10_000_000)).decode(),
        "properties": {"delivery_tag": "1", "body_encoding": "base64"},
        "headers": {"compression": "bzip2"},
    }
    channel = control.Channel.__new__(control.Channel)
    assert len(channel.message_to_python(raw).body) < 1000


def test_a_shutdown_is_answered_and_asked_for_once(
    ask: Callable[..., Any], consumer: Consumer, app: Celery
) -> None:
    """The engine takes a second one as an order not to wait for what runs."""
    consumer.start()
    assert "ok" in ask("shutdown")
    assert "ok" in ask("shutdown")
    assert app.engine.stops == 1


@pytest.mark.parametrize("body", [None, "text", [], {}, {"method": "ping", "reply_to": "nobody"}])
def test_a_bad_control_message_ends_nothing(
    ask: Callable[..., Any], node: Node, consumer: Consumer, body: Any
) -> None:
    consumer.start()
    Listener(node, lambda: None)._on_message(body, None)
    assert ask("ping") == {"ok": "pong"}


class Link:
    """A connection that brings nothing, and breaks after `breaks_after` rounds."""

    def __init__(self, breaks_after: int) -> None:
        self._left = breaks_after
        self.default_channel = object()
        self.transport = SimpleNamespace(
            cycle=SimpleNamespace(maybe_check_subclient_health=lambda: None)
        )

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def drain_events(self, timeout: float) -> None:
        if self._left == 0:
            raise ConnectionResetError("by peer")
        self._left -= 1
        raise TimeoutError


def test_an_outage_is_said_once_and_its_end_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(control, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(control, "random", SimpleNamespace(uniform=lambda low, high: high))
    script: list[Any] = [
        ConnectionRefusedError("one"),
        *[KeyError("nobody foresaw")] * 6,
        Link(2),
        ConnectionRefusedError("two"),
        Link(1),
    ]

    def connect() -> Any:
        if not script:
            raise SystemExit  # nothing else ends it
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    listener = Listener(SimpleNamespace(listen=lambda callback: None), connect)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, logger="tasks.engine.control"), pytest.raises(SystemExit):
        listener.run()
    assert listener.daemon
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "the control plane cannot be reached; tasks go on: ConnectionRefusedError('one')",
        ),
        ("INFO", "the control plane is reached"),
        (
            "WARNING",
            "the control plane cannot be reached; tasks go on: ConnectionResetError('by peer')",
        ),
        ("INFO", "the control plane is reached"),
        (
            "WARNING",
            "the control plane cannot be reached; tasks go on: ConnectionResetError('by peer')",
        ),
    ]
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 2, 4, 2]
