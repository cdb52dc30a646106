"""`celery inspect` and `celery control` for workers on SQS, over Valkey.

SQS has no fan-out, so Celery leaves remote control out there. Here it has a connection of its own
that carries nothing else, and in each worker a thread of its own: Valkey can be slow, frozen or
gone, and no task notices. The thread waits for commands and sends the replies; the commands run
on the worker's event loop, where everything lives that they touch.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn

from celery import Celery, bootsteps, signals
from celery.app.control import Control as CeleryControl
from celery.bin.purge import purge as purge_command
from celery.exceptions import CeleryCommandException
from celery.platforms import EX_UNAVAILABLE
from celery.utils.collections import AttributeDict
from celery.utils.serialization import jsonify
from celery.worker.consumer import Tasks
from celery.worker.control import nok
from kombu import Connection, Producer, pidbox
from kombu.exceptions import KombuError
from kombu.transport import redis
from kombu.utils.encoding import safe_repr
from redis.exceptions import RedisError

from tasks.engine.commands import REFUSED, Refused, all_commands

log = logging.getLogger(__name__)

#: What a call raises when Valkey is unreachable, slow, or says no.
OUTAGES = (OSError, RedisError, KombuError)
#: Seconds that one call to Valkey may take.
CALL_TIMEOUT = 5.0
#: Seconds that a command may wait for the event loop. Whoever asked has given up by then.
COMMAND_TIMEOUT = 5.0
#: Seconds of silence after which a connection is asked whether it still stands.
HEALTH_EVERY = 10
#: The longest pause between two tries while Valkey cannot be reached.
MAX_PAUSE = 30.0


class Unreachable(CeleryCommandException):
    """The command line shows it as one line."""

    def __init__(self, address: str, error: Exception) -> None:
        reason = str(error).partition("\n")[0] or type(error).__name__
        super().__init__(
            f"the control plane at {address} cannot be reached: {reason}", exit_code=EX_UNAVAILABLE
        )


def install(app: Celery, url: str, *, pool_size: int) -> None:
    """Give `app` its remote control. To be called before `app.control` is used.

    Args:
        url: of Valkey. It is not kept in `app.conf`, which `celery inspect conf` shows.
        pool_size: connections that one process keeps at most.
    """
    app.control_cls = partial(Control, connect=partial(connect, url, pool_size))
    app.steps["consumer"].add(ControlStep)
    signals.celeryd_init.connect(_refuse_to_purge_first, weak=False)
    # The channel refuses, too; this comes before Celery asks whether the user is sure.
    purge_command.callback = _refuse_to_purge


def connect(url: str, pool_size: int) -> Connection:
    """A connection that is made when it is first used, and tries nothing twice."""
    return Connection(
        url,
        transport=Transport,
        # kombu would take any certificate. What the URL says of it has precedence.
        ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss:") else False,
        transport_options={
            "socket_timeout": CALL_TIMEOUT,
            "socket_connect_timeout": CALL_TIMEOUT,
            "health_check_interval": HEALTH_EVERY,
            "max_connections": pool_size,
            "max_retries": 0,
        },
    )


def _refuse_to_purge(*_: Any, **__: Any) -> NoReturn:
    raise Refused("purge")


def _refuse_to_purge_first(options: Mapping[str, Any], **_: Any) -> None:
    """`celery worker --purge`"""
    if options.get("purge"):
        raise SystemExit(f"this worker does not start: {Refused('purge')}")


class OneTry(Producer):
    """Publishes or fails. kombu's mailbox asks for tries without end."""

    def publish(self, *args: Any, retry: bool = False, **options: Any) -> Any:
        return super().publish(*args, retry=False, **options)


class Channel(redis.Channel):
    def message_to_python(self, raw_message: Any) -> Any:
        """kombu decompresses before anybody can look: a small message would fill the memory."""
        if isinstance(raw_message, dict) and isinstance(raw_message.get("headers"), dict):
            raw_message["headers"].pop("compression", None)
        return super().message_to_python(raw_message)


class Transport(redis.Transport):
    Channel = Channel


class Node(pidbox.Node):
    """A worker's end: runs commands on the event loop and replies from its own thread."""

    def handle_message(self, body: Any, message: Any = None) -> Any:
        # A regular expression of a few characters can run for years, and holds the interpreter.
        if isinstance(body, dict) and body.get("matcher") not in (None, "glob"):
            raise ValueError("the matcher is not glob")
        return super().handle_message(body, message)

    def dispatch(
        self,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        reply_to: Mapping[str, str] | None = None,
        ticket: str | None = None,
        **_: Any,
    ) -> None:
        result: Future[Any] = Future()
        command = partial(self.handle, method, arguments)
        self.state.consumer.hub.call_soon(_execute, result, method, command)
        try:
            reply = result.result(COMMAND_TIMEOUT)
        except TimeoutError:
            # Silence, and not an error: to a ping, any answer is a sign of life.
            result.cancel()
            log.warning("the event loop did not take the command %s in time", method)
            return
        if reply_to:
            self.reply({self.hostname: reply}, ticket=ticket, **reply_to)


def _execute(result: Future[Any], method: str, command: Callable[[], Any]) -> None:
    """On the event loop, which a SystemExit must reach."""
    if not result.set_running_or_notify_cancel():
        return
    try:
        # Some statistics have values that JSON does not know.
        reply = jsonify(command(), unknown_type_filter=safe_repr)
    except Exception as error:  # noqa: BLE001 - it is the answer to whoever asked
        log.warning("the command %s failed: %r", method, error)
        reply = nok(repr(error))
    result.set_result(reply)


class Mailbox(pidbox.Mailbox):
    node_cls = Node

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Producer]:
        """Not one of the app's pool: those publish to SQS."""
        yield OneTry(channel, auto_declare=False)


class Control(CeleryControl):
    """`app.control`, which `celery inspect` and `celery control` use."""

    Mailbox = Mailbox

    def __init__(self, app: Celery, connect: Callable[[], Connection]) -> None:
        super().__init__(app)
        self.connect = connect

    def broadcast(
        self, command: str, *args: Any, connection: Connection | None = None, **options: Any
    ) -> Any:
        """
        Raises:
            Refused: no worker obeys this command.
            Unreachable: Valkey did not answer; the command may have been sent.
        """
        if command in REFUSED:
            raise Refused(command)
        if connection is not None:
            return super().broadcast(command, *args, connection=connection, **options)
        with self.connect() as own:
            try:
                return super().broadcast(command, *args, connection=own, **options)
            except OUTAGES as error:
                raise Unreachable(f"{own.hostname}:{own.port}", error) from None

    def purge(self, connection: Connection | None = None) -> NoReturn:
        _refuse_to_purge()

    discard_all = purge


class ControlStep(bootsteps.StartStopStep):
    """Starts the thread when the worker's consumer starts for the first time."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._listener: Listener | None = None

    def start(self, consumer: Any) -> None:
        # A consumer starts again after an outage of its broker; the thread goes on.
        if self._listener is None:
            self._listener = Listener(node_of(consumer), consumer.app.control.connect)
            self._listener.start()


def node_of(consumer: Any) -> Node:
    state = AttributeDict(
        app=consumer.app, hostname=consumer.hostname, consumer=consumer, tset=lambda tasks: tasks
    )
    node: Node = consumer.app.control.mailbox.Node(
        consumer.hostname, state, handlers=all_commands()
    )
    return node


class Listener(threading.Thread):
    """Never joined: a frozen Valkey must not keep a worker from stopping."""

    def __init__(self, node: Node, connect: Callable[[], Connection]) -> None:
        super().__init__(name="control", daemon=True)
        self._node = node
        self._connect = connect
        self._failures = 0
        self._is_reached: bool | None = None

    def run(self) -> None:
        while True:
            try:
                with self._connect() as connection:
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001 - said; without this thread, no control
                self._lost(error)
            # Jitter: a fleet of workers must not come back at one moment.
            time.sleep(_pause(self._failures) * random.uniform(0.5, 1))  # noqa: S311

    def _listen(self, connection: Connection) -> NoReturn:
        self._node.channel = connection.default_channel
        self._node.listen(callback=self._on_message)
        while True:
            with suppress(TimeoutError):
                connection.drain_events(timeout=1)
            # A connection that something on its way has dropped is silent, too.
            connection.transport.cycle.maybe_check_subclient_health()
            self._reached()

    def _on_message(self, body: Any, message: Any) -> None:
        try:
            self._node.handle_message(body, message)
        except OUTAGES:
            raise
        except Exception as error:  # noqa: BLE001 - one bad message must not end the connection
            log.warning("a control message cannot be read: %r", error)

    def _lost(self, error: Exception) -> None:
        self._failures += 1
        if self._is_reached is not False:
            log.warning("the control plane cannot be reached; tasks go on: %r", error)
        self._is_reached = False

    def _reached(self) -> None:
        self._failures = 0
        if not self._is_reached:
            log.info("the control plane is reached")
        self._is_reached = True


def _pause(failures: int) -> float:
    return min(2.0**failures, MAX_PAUSE)
