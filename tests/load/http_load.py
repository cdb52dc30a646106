"""A load of HTTP requests from a few kept connections, in one thread, for little CPU time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from okuru.stack.errors import StackError
from okuru.stack.ports import LOOPBACK

#: Seconds that a whole load may take.
WITHIN = 120


@dataclass
class Answers:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def drive(port: int, requests: Iterable[bytes], *, connections: int) -> Answers:
    """Send each request once; a connection sends its next one as soon as it has its answer."""
    return asyncio.run(asyncio.wait_for(_drive(port, iter(requests), connections), WITHIN))


async def _drive(port: int, requests: Iterator[bytes], connections: int) -> Answers:
    answers = Answers()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = [
        await loop.create_connection(lambda: _Connection(requests, answers), LOOPBACK, port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.ended for _, protocol in made))
    answers.seconds = time.perf_counter() - started
    return answers


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], answers: Answers) -> None:
        self._requests = requests
        self._answers = answers
        self._buffer = b""
        self._awaited = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        self._awaited = request is not None
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = b""
        self._answers.latencies.append(time.perf_counter() - self._sent_at)
        self._answers.statuses[int(head.split(b" ", 2)[1])] += 1
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if self._awaited:
            self.ended.set_exception(StackError(f"the server hung up: {error}"))
        else:
            self.ended.set_result(None)


def ask(what: str, port: int, **headers: str) -> bytes:
    """The bytes of a request without a body; `what` is a method and a path."""
    lines = [
        f"{what} HTTP/1.1",
        f"Host: {LOOPBACK}:{port}",
        "Content-Length: 0",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()
