"""The webhook sender against a real HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from app.delivery.errors import PermanentError, TimedOut, TransientError
from app.gifts.senders import Parcel
from app.gifts.senders.webhook import WebhookSender

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5"
PARCEL = Parcel(
    gift_id=UUID("11111111-1111-4111-8111-111111111111"),
    code=UUID("22222222-2222-4222-8222-222222222222"),
    amount=5,
    message="贈る 🎁",
    recipient="someone@example.com",
    accepted_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    simulate={},
)


@dataclass
class Call:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Provider:
    """A real server that answers as it is told."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


@pytest.fixture
def provider() -> Iterator[Provider]:
    told = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.calls.append(
                Call(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            )
            if told.silent:
                told.released.wait(30)
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - a redirect that is followed comes as GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield told
    told.released.set()
    server.shutdown()
    thread.join(10)
    server.server_close()


def sender(url: str, **options: Any) -> WebhookSender:
    defaults: dict[str, Any] = {
        "connect_timeout": 1, "read_timeout": 5, "public_only": False,
        "allowed_hosts": frozenset(),
    }  # fmt: skip
    return WebhookSender(url, SECRET, **{**defaults, **options})


def test_a_call_is_signed_by_the_standard_webhooks_scheme(provider: Provider) -> None:
    sender(provider.url).send(PARCEL, 3)
    [call] = provider.calls
    assert call.path == "/hook"
    assert Webhook(SECRET).verify(call.body, call.headers) == json.loads(call.body)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(call.body.replace(b"5", b"6"), call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "b3RoZXI=" * 4).verify(call.body, call.headers)
    assert call.headers["webhook-id"] == call.headers["idempotency-key"] == str(PARCEL.gift_id)
    assert call.headers["content-type"] == "application/json"
    assert call.headers["okuru-execution"] == "3"


def test_the_body_is_the_same_at_every_execution(provider: Provider) -> None:
    for execution in range(1, 6):
        sender(provider.url).send(PARCEL, execution)
    assert len({call.body for call in provider.calls}) == 1
    assert json.loads(provider.calls[0].body)["data"]["message"] == PARCEL.message


@pytest.mark.parametrize("status", [200, 201, 202, 204, 409])
def test_sent(provider: Provider, status: int) -> None:
    provider.status = status
    sender(provider.url).send(PARCEL, 1)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_not_sent_yet(provider: Provider, status: int) -> None:
    provider.status, provider.headers = status, {"Retry-After": "30"}
    with pytest.raises(TransientError) as raised:
        sender(provider.url).send(PARCEL, 1)
    assert not isinstance(raised.value, TimedOut)
    assert (raised.value.code, raised.value.retry_after) == (f"PROVIDER_{status}", 30)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_never_sent(provider: Provider, status: int) -> None:
    provider.status = status
    with pytest.raises(PermanentError) as raised:
        sender(provider.url).send(PARCEL, 1)
    assert raised.value.code == f"PROVIDER_{status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(provider: Provider, status: int) -> None:
    """The code would go where nobody configured it."""
    provider.status, provider.headers = status, {"Location": f"{provider.url}/elsewhere"}
    with pytest.raises(TransientError, match="redirect"):
        sender(provider.url).send(PARCEL, 1)
    assert [call.path for call in provider.calls] == ["/hook"]


def test_an_answer_that_never_ends_is_not_read(provider: Provider) -> None:
    provider.headers = {"Content-Length": str(10**12)}
    sender(provider.url).send(PARCEL, 1)


def test_no_answer_in_time_is_an_unknown_outcome(provider: Provider) -> None:
    provider.silent = True
    with pytest.raises(TimedOut) as raised:
        sender(provider.url, read_timeout=0.2).send(PARCEL, 1)
    assert raised.value.code == "PROVIDER_TIMEOUT"
    assert len(provider.calls) == 1, "it may have done it"


def test_nobody_there_is_no_delivery() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(TransientError) as raised:
        sender(f"http://127.0.0.1:{port}/").send(PARCEL, 1)
    assert raised.value.code == "PROVIDER_UNREACHABLE"
    assert not isinstance(raised.value, TimedOut)


def test_a_name_that_nobody_knows_is_no_delivery() -> None:
    with pytest.raises(TransientError) as raised:
        sender("http://no-such-host.invalid/").send(PARCEL, 1)
    assert raised.value.code == "PROVIDER_UNREACHABLE"


def test_a_server_that_hangs_up_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as rude:
        threading.Thread(target=lambda: rude.accept()[0].close()).start()
        with pytest.raises(TransientError) as raised:
            sender(f"http://127.0.0.1:{rude.getsockname()[1]}/").send(PARCEL, 1)
    assert raised.value.code == "PROVIDER_UNREACHABLE"


# --- where a code may go ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_address_is_refused_before_a_byte_is_sent(provider: Provider, host: str) -> None:
    url = f"http://{host}:{provider.port}/hook"
    with pytest.raises(TransientError) as raised:
        sender(url, public_only=True).send(PARCEL, 1)
    assert raised.value.code == "ADDRESS_REFUSED"
    assert provider.calls == []


@pytest.mark.parametrize(
    ("host", "allowed", "goes"),
    [
        ("localhost", {"localhost"}, True),
        ("127.0.0.1", {"127.0.0.1", "provider.internal"}, True),
        ("localhost", {"127.0.0.1"}, False),
        ("localhost", {"elsewhere"}, False),
    ],
)
def test_a_private_address_is_allowed_by_its_name(
    provider: Provider, host: str, allowed: set[str], goes: bool
) -> None:
    subject = sender(
        f"http://{host}:{provider.port}/hook", public_only=True, allowed_hosts=frozenset(allowed)
    )
    if goes:
        subject.send(PARCEL, 1)
    else:
        with pytest.raises(TransientError):
            subject.send(PARCEL, 1)
    assert len(provider.calls) == goes


@pytest.mark.parametrize("public_only", [False, True])
def test_neither_proxy_nor_netrc_sees_a_code(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, public_only: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        sender(provider.url, public_only=public_only, allowed_hosts=frozenset({"127.0.0.1"})).send(
            PARCEL, 1
        )
        with pytest.raises(BlockingIOError):
            proxy.accept()
    [call] = provider.calls
    assert "authorization" not in call.headers


# --- what an error says -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 400, 500])
def test_no_error_quotes_the_code_or_the_secret(provider: Provider, status: int) -> None:
    provider.status = status
    provider.headers = {"Location": f"/{PARCEL.code}", "Retry-After": str(PARCEL.code)}
    refusals = [
        sender(provider.url),
        sender(provider.url, public_only=True),
        sender("http://127.0.0.1:1/"),
    ]
    for subject in refusals:
        with pytest.raises((TransientError, PermanentError)) as raised:
            subject.send(PARCEL, 1)
        said = f"{raised.value!r} {raised.value} {raised.value.code} {raised.value.__cause__!r}"
        assert str(PARCEL.code) not in said
        assert SECRET not in said
        assert PARCEL.recipient is not None
        assert PARCEL.recipient not in said
        assert raised.value.__suppress_context__ or raised.value.__context__ is None
