"""One test's queues, proxy, ledger and workers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
import psutil

from okuru.stack.child import Child
from okuru.stack.home import PROJECT, Home
from okuru.stack.sqs import ACCOUNT, Sqs
from tasks.engine import queues
from tests.acceptance.client import wait_until
from tests.acceptance.engine import messages
from tests.acceptance.engine.ledger import Ledger
from tests.acceptance.engine.proxy import Proxy
from tests.acceptance.engine.queues import catalogue

CELERY = [sys.executable, "-m", "celery", "-A", "tests.acceptance.engine.application"]
#: Seconds. Generous: other tests run beside it.
START_WITHIN = 40.0
STOP_WITHIN = 30.0
#: Of a worker's long polls. SQS knows whole seconds.
POLL_WAIT = 2


class Site:
    def __init__(self, server: Sqs, path: Path) -> None:
        """
        Args:
            path: an empty folder for the ledger and the logs.
        """
        self.path = path
        self.proxy = Proxy(server.url)
        self.ledger = Ledger(path / "ledger.jsonl")
        self.outage = path / "outage"
        self._name = f"e{uuid.uuid4().hex[:8]}-"
        self.catalogue = catalogue(f"{server.url}/{ACCOUNT}/{self._name}")
        self.sqs = boto3.client("sqs", region_name="ap-northeast-1", endpoint_url=server.url)
        queues.create(self.sqs, self.catalogue)
        self.workers: list[Worker] = []
        self._dead: dict[str, dict[str, str]] = {}
        self._home = Home(path)
        self._home.run.mkdir(parents=True)

    def environment(self, **more: str) -> dict[str, str]:
        """Of a worker: with nothing of ours but what it needs."""
        kept = ("PATH", "HOME", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "ap-northeast-1",
            "AWS_DEFAULT_REGION": "ap-northeast-1",
            "AWS_ENDPOINT_URL": self.proxy.url,
            "QUEUE_URL_PREFIX": f"{self.proxy.url}/{ACCOUNT}/{self._name}",
            "LEDGER": str(self.ledger.path),
            "OUTAGE": str(self.outage),
            "POLL_WAIT": str(POLL_WAIT),
            "GRACE": "20",
            **more,
        }

    def worker(
        self,
        *queue_names: str,
        concurrency: int = 2,
        ready: bool = True,
        options: Iterable[str] = (),
        **environment: str,
    ) -> Worker:
        """Start a worker of some queues, and wait until it is ready for them."""
        worker = Worker(
            f"worker{len(self.workers)}",
            self._home,
            [*CELERY, "worker", "-c", str(concurrency), "-Q", ",".join(queue_names), *options],
            self.environment(**environment),
            self.path,
        )
        self.workers.append(worker)
        if ready:
            self.wait_until_ready(worker)
        return worker

    def wait_until_ready(self, worker: Worker) -> None:
        def is_ready() -> bool:
            assert worker.alive, worker.output
            return bool(self.ledger.read("ready", pid=worker.pid))

        wait_until(is_ready, within=START_WITHIN, what=lambda: worker.output)

    def celery(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run another command of Celery's. Returns its exit code and all that it said."""
        result = subprocess.run(
            [*CELERY, *arguments],
            env=self.environment(**environment),
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=START_WITHIN,
            check=False,
        )
        return result.returncode, result.stdout

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.proxy.close()

    # --- messages ---

    def send(self, queue: str, name: str = "noop", /, **kwargs: Any) -> str:
        """Send a task. Returns the message's id."""
        return self.send_bodies(queue, [messages.task(name, **kwargs)])[0]

    def send_many(self, queue: str, name: str, kwargs: Iterable[dict[str, Any]]) -> list[str]:
        return self.send_bodies(queue, [messages.task(name, **each) for each in kwargs])

    def send_bodies(self, queue: str, bodies: Iterable[str]) -> list[str]:
        """Returns the messages' ids in the order of their bodies."""
        ids: list[str] = []
        for batch in _batches(bodies, 10):
            answer = self.sqs.send_message_batch(
                QueueUrl=self.catalogue.url(queue),
                Entries=[{"Id": str(n), "MessageBody": body} for n, body in enumerate(batch)],
            )
            assert not answer.get("Failed"), answer["Failed"]
            found = {each["Id"]: each["MessageId"] for each in answer["Successful"]}
            ids += [found[str(n)] for n in range(len(batch))]
        return ids

    def depths(self, queue: str) -> tuple[int, int]:
        """Visible and hidden messages of a queue."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(
            QueueUrl=self.catalogue.url(queue), AttributeNames=names
        )
        visible, hidden = (int(answer["Attributes"][name]) for name in names)
        return visible, hidden

    def is_empty(self, queue: str) -> bool:
        return self.depths(queue) == (0, 0)

    def dead_letters(self, queue: str) -> dict[str, str]:
        """All bodies that ever were in the dead-letter queue, by the ids of their messages."""
        found = self._dead.setdefault(queue, {})
        while received := self.sqs.receive_message(
            QueueUrl=self.catalogue.url(f"{queue}-dlq"),
            MaxNumberOfMessages=10,
            VisibilityTimeout=3600,
        ).get("Messages"):
            found |= {message["MessageId"]: message["Body"] for message in received}
        return found

    # --- waiting ---

    def wait_for(self, event: str, names: Iterable[Any], *, within: float) -> None:
        """Wait until there is such an entry for every `n`."""
        wanted = set(names)

        def missing() -> set[Any]:
            return wanted - set(self.ledger.counts(event))

        wait_until(
            lambda: not missing(),
            within=within,
            what=lambda: (
                f"{event} of {len(missing())}: {sorted(missing(), key=str)[:20]}"
                + self.last_words()
            ),
        )

    def wait_until(self, condition: Callable[[], Any], *, within: float, what: str) -> None:
        wait_until(condition, within=within, what=lambda: what + self.last_words())

    def wait_until_empty(self, queue: str, *, within: float) -> None:
        wait_until(
            lambda: self.is_empty(queue),
            within=within,
            what=lambda: f"{queue} is empty: {self.depths(queue)}" + self.last_words(),
        )

    def last_words(self) -> str:
        """Of the workers, for a test that fails."""
        return "".join(
            f"\n--- {worker.name}, {'alive' if worker.alive else 'DEAD'}\n{worker.output[-3000:]}"
            for worker in self.workers
        )


class Worker:
    """A worker's main process, its pool, and what they said."""

    def __init__(
        self, name: str, home: Home, command: list[str], environment: dict[str, str], path: Path
    ) -> None:
        self.name = name
        self._child = Child(home, name)
        self._log = path / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = self._child.start(
                [*command, "-n", f"{name}@%h"], environment, output=log
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log lines; what it prints otherwise is no line."""
        lines = []
        for line in self.output.splitlines():
            if line.startswith("{"):
                lines.append(json.loads(line))
        return lines

    def said(self, *levels: str, since: float = 0.0, until: float = float("inf")) -> list[str]:
        return [
            line["message"]
            for line in self.log
            if line["level"] in levels and since <= line["at"] < until
        ]

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)

    def cpu_seconds(self) -> float:
        """Of the main process alone."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def pool(self) -> list[int]:
        return [child.pid for child in self.process.children()]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """TERM."""
        self.signal(signal.SIGTERM)

    def wait(self, *, within: float = STOP_WITHIN) -> int:
        """Its exit code."""
        return self._process.wait(within)

    def end(self) -> None:
        self._child.end()


def _batches(items: Iterable[str], size: int) -> Iterable[list[str]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
