"""What the engine takes of the private parts of kombu and Celery, as it was read.

A new version may change any of it without a word. This list says so before a worker does: read
the new source, then change the list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.app.control import Control as CeleryControl
from celery.exceptions import Reject
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request
from kombu import Connection, Producer, pidbox
from kombu.asynchronous import Hub
from kombu.asynchronous.aws.connection import AsyncHTTPSConnection
from kombu.asynchronous.aws.sqs.connection import AsyncSQSConnection
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.transport import SQS, redis, virtual
from kombu.transport.redis import MultiChannelPoller

from tasks.engine import consumer, control, publisher, transport
from tasks.engine import task as engine_task


@pytest.mark.parametrize(
    ("package", "pinned"), [("celery", "5.7.0"), ("kombu", "5.7.0"), ("billiard", "4.3.2")]
)
def test_the_versions_are_those_that_were_read(package: str, pinned: str) -> None:
    assert version(package) == pinned


OVERRIDDEN = [
    (transport.Connection, AsyncSQSConnection, "get_http_connection", "(self)"),
    (
        transport.Connection,
        AsyncSQSConnection,
        "_on_list_ready",
        "(self, parent, markers, operation, response)",
    ),
    (transport.Channel, SQS.Channel, "asynsqs", "(self, queue=None)"),
    (
        transport.Channel,
        SQS.Channel,
        "_get_from_sqs",
        "(self, queue_name, queue_url, connection, count=1, callback=None)",
    ),
    (transport.Channel, SQS.Channel, "_schedule_queue", "(self, queue)"),
    (transport.Channel, SQS.Channel, "_loop1", "(self, queue, messages_fetched=None)"),
    (transport.Channel, SQS.Channel, "_on_messages_ready", "(self, queue, qname, messages)"),
    (transport.Channel, SQS.Channel, "basic_ack", "(self, delivery_tag, multiple=False)"),
    (transport.Channel, SQS.Channel, "basic_reject", "(self, delivery_tag, requeue=False)"),
    (
        transport.Channel,
        virtual.Channel,
        "basic_qos",
        "(self, prefetch_size=0, prefetch_count=0, apply_global=False)",
    ),
    (
        transport.Channel,
        SQS.Channel,
        "basic_consume",
        "(self, queue, no_ack, callback, consumer_tag, *args, **kwargs)",
    ),
    (transport.Channel, SQS.Channel, "_message_to_python", "(self, message, queue_name, q_url)"),
    (transport.Channel, SQS.Channel, "_purge", "(self, queue)"),
    (transport.Channel, SQS.Channel, "_size", "(self, queue)"),
    (consumer.Consumer, CeleryConsumer, "on_decode_error", "(self, message, exc)"),
    (consumer.Consumer, CeleryConsumer, "on_unknown_message", "(self, body, message)"),
    (consumer.Consumer, CeleryConsumer, "on_unknown_task", "(self, body, message, exc)"),
    (consumer.Consumer, CeleryConsumer, "on_invalid_task", "(self, body, message, exc)"),
    (publisher._CapturingChannel, SQS.Channel, "_put", "(self, queue, message, **kwargs)"),
    (
        engine_task.Request,
        Request,
        "on_failure",
        "(self, exc_info, send_failed_event=True, return_ok=False)",
    ),
    (engine_task.Request, Request, "acknowledge", "(self)"),
    (engine_task.Request, Request, "revoked", "(self)"),
    (engine_task.Request, Request, "on_retry", "(self, exc_info)"),
    (engine_task.Request, Request, "on_timeout", "(self, soft, timeout)"),
    (
        engine_task.Request,
        Request,
        "_announce_revoked",
        "(self, reason, terminated, signum, expired)",
    ),
    (engine_task.Task, Task, "__call__", "(self, *args, **kwargs)"),
    (
        control.Node,
        pidbox.Node,
        "dispatch",
        "(self, method, arguments=None, reply_to=None, ticket=None, **kwargs)",
    ),
    (
        control.Mailbox,
        pidbox.Mailbox,
        "producer_or_acquire",
        "(self, producer=None, channel=None)",
    ),
    (
        control.OneTry,
        Producer,
        "publish",
        (
            "(self, body, routing_key=None, delivery_mode=None, mandatory=False, immediate=False,"
            " priority=0, content_type=None, content_encoding=None, serializer=None, headers=None,"
            " compression=None, exchange=None, retry=False, retry_policy=None, declare=None,"
            " expiration=None, timeout=None, confirm_timeout=None, **properties)"
        ),
    ),
    (
        control.Control,
        CeleryControl,
        "broadcast",
        (
            "(self, command, arguments=None, destination=None, connection=None, reply=False,"
            " timeout=1.0, limit=None, callback=None, channel=None, pattern=None, matcher=None,"
            " **extra_kwargs)"
        ),
    ),
    (control.Control, CeleryControl, "purge", "(self, connection=None)"),
    (control.Control, CeleryControl, "discard_all", "(self, connection=None)"),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "name", "signature"),
    OVERRIDDEN,
    ids=[f"{case[1].__name__}.{case[2]}" for case in OVERRIDDEN],
)
def test_what_the_engine_overrides_is_there(
    ours: type, theirs: type, name: str, signature: str
) -> None:
    assert plain_signature(getattr(theirs, name)) == signature
    assert name in vars(ours)
    # Every call that theirs takes, ours takes too.
    inspect.signature(getattr(ours, name)).bind(*positional(getattr(theirs, name)))


RELIED_ON: list[tuple[Callable[..., Any], str]] = [
    (SQS.Channel._get_async, "(self, queue, count=1, callback=None)"),
    (
        AsyncSQSConnection.receive_message,
        (
            "(self, queue, queue_url, number_messages=1, visibility_timeout=None, attributes=None,"
            " wait_time_seconds=None, callback=None)"
        ),
    ),
    (SQS.Channel.sqs, "(self, queue=None)"),
    (virtual.Channel.basic_ack, "(self, delivery_tag, multiple=False)"),
    (virtual.Channel.basic_reject, "(self, delivery_tag, requeue=False)"),
    (virtual.QoS.get, "(self, delivery_tag)"),
    (WorkController._process_task, "(self, req)"),
    (LaxBoundedSemaphore.clear, "(self)"),
    (LaxBoundedSemaphore.release, "(self)"),
    (virtual.QoS.reject, "(self, delivery_tag, requeue=False)"),
    (
        AsyncHTTPSConnection.__init__,
        "(self, strict=None, timeout=20.0, http_client=None)",
    ),
    (Reject.__init__, "(self, reason=None, requeue=False)"),
    (pidbox.Node.handle, "(self, method, arguments=None)"),
    (pidbox.Node.listen, "(self, channel=None, callback=None)"),
    (pidbox.Node.handle_message, "(self, body, message=None)"),
    (pidbox.Node.reply, "(self, data, exchange, routing_key, ticket, **kwargs)"),
    (MultiChannelPoller.maybe_check_subclient_health, "(self)"),
    (Hub.call_soon, "(self, callback, *args)"),
]


@pytest.mark.parametrize(
    ("method", "signature"), RELIED_ON, ids=[case[0].__qualname__ for case in RELIED_ON]
)
def test_what_the_engine_calls_is_there(method: Callable[..., Any], signature: str) -> None:
    assert plain_signature(method) == signature


def test_the_attributes_that_the_engine_touches_are_there() -> None:
    assert SQS.Channel.do_restore is True
    assert SQS.Channel.body_encoding == "base64"
    assert "_predefined_queue_async_clients" in vars(SQS.Channel)
    assert AsyncSQSConnection.STATUS_CODE_OK == 200
    assert SQS.Transport.Channel is SQS.Channel
    assert Request.acknowledge
    assert "_httpclient" in inspect.getsource(AsyncSQSConnection.__mro__[2])
    # A call's timeout is set just before it: the connection must be made at once.
    assert "conn = self.get_http_connection()" in inspect.getsource(AsyncSQSConnection._mexe)
    # The channel knows a short poll by its queue's name, which kombu must not change.
    assert "queue_name=qname" in inspect.getsource(SQS.Channel._get_async)
    assert "self._delivered = " in inspect.getsource(virtual.QoS.__init__)
    # stop.py replaces the method that the semaphore calls, and raises the flags of the loop.
    assert "self._quick_acquire(self._process_task, req)" in inspect.getsource(
        WorkController._process_task_sem
    )
    assert "should_stop" in inspect.getsource(state.maybe_shutdown)
    assert "should_terminate" in inspect.getsource(state.maybe_shutdown)
    assert state.reserved_requests is not None
    assert "bucket.contents" in inspect.getsource(CeleryConsumer._schedule_bucket_request)
    # control.py: whoever asks for the mailbox gets ours, and its nodes are ours.
    assert "self.mailbox = self.Mailbox(" in inspect.getsource(CeleryControl.__init__)
    assert "node_cls" in inspect.getsource(pidbox.Mailbox.Node)
    assert "self.control_cls" in inspect.getsource(Celery)
    assert redis.Transport(Connection("redis://")).cycle.maybe_check_subclient_health


def test_a_rejected_task_reaches_the_channel_through_its_request() -> None:
    """`Request.on_failure` of the engine leaves a note on the message before this happens."""
    source = inspect.getsource(Request.on_failure)
    assert "self.reject(requeue=exc.requeue)" in source
    assert source.index("isinstance(exc, Reject)") < source.index(
        "self.reject(requeue=exc.requeue)"
    )


def test_celerys_producer_takes_what_the_publisher_gives() -> None:
    parameters = inspect.signature(AMQP.as_task_v2).parameters
    assert {"kwargs", "ignore_result", "argsrepr", "kwargsrepr"} <= set(parameters)
    assert list(parameters)[1:3] == ["task_id", "name"]
    message = Celery(set_as_current=False).amqp.as_task_v2("id", "name", kwargs={"a": 1})
    assert message._fields == ("headers", "properties", "body", "sent_event")


def plain_signature(method: Callable[..., Any]) -> str:
    """Names and defaults; annotations come and go."""
    signature = inspect.signature(method)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def positional(method: Callable[..., Any]) -> list[object]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each for each in inspect.signature(method).parameters.values() if each.kind in kinds]
