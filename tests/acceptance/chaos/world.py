"""The stack with the misbehaving provider, and the runs of scenarios on it."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import psutil

from okuru.stack.home import Home
from okuru.stack.stack import Stack
from tasks.engine import sqs
from tasks.engine.catalogue import Catalogue
from tests.acceptance.chaos import evidence, poison
from tests.acceptance.chaos.instruments import Database
from tests.acceptance.chaos.load import Load
from tests.acceptance.chaos.provider import Provider
from tests.acceptance.chaos.stub import Rules
from tests.acceptance.client import Client

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that a caller of the provider waits for its answer; a late one takes longer.
READ_TIMEOUT = 2.0
LATE_BY = READ_TIMEOUT + 0.5
#: Seconds that what is hidden by a killed worker, or lost with a killed SQS, may take to come
#: back: a stall is found 63 s after the last touch, and its message may be hidden for 30 s more.
SETTLE_WITHIN = 200.0

#: What the ledger calls the provider's own faults.
BY_PROVIDER = {"kill": "kill caller", "late": "late answer", "failed": "failed call"}


@dataclass(frozen=True)
class Fault:
    injector: str
    what: str
    after: float
    """Seconds from the beginning of the run."""


class World:
    def __init__(self, stack: Stack, provider: Provider) -> None:
        self.stack = stack
        self.provider = provider
        self.database = Database(stack.environment["DATABASE_URL"])
        self.catalogue = Catalogue.load(stack.environment["QUEUE_URL_PREFIX"])
        #: Monotonic, of the last time that SQS forgot its messages.
        self.sqs_lost_at = float("-inf")
        self._refused_moves: set[str] = set()

    @cached_property
    def sqs(self) -> SQSClient:
        environment = self.stack.environment
        return sqs.client(
            environment["AWS_REGION"],
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )

    def client(self) -> Client:
        return Client(self.stack.api_url, self.stack.keys["API_KEY"])

    def is_whole(self) -> bool:
        """Whether every process is up, and the worker has its children."""
        if not all(process.alive for process in self.stack.processes.values()):
            return False
        with suppress(psutil.NoSuchProcess):
            return bool(psutil.Process(self.stack.processes["worker"].pid).children())
        return False

    def depth(self, queue: str) -> int:
        """Messages of a queue, hidden ones included."""
        names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(
            QueueUrl=self.catalogue.url(queue), AttributeNames=names
        )
        return sum(int(answer["Attributes"][name]) for name in names)

    def send_batch(self, queue: str, bodies: Sequence[str]) -> list[str]:
        """Returns the MessageId of each."""
        ids = []
        for start in range(0, len(bodies), 10):
            some = bodies[start : start + 10]
            answer = self.sqs.send_message_batch(
                QueueUrl=self.catalogue.url(queue),
                Entries=[{"Id": str(n), "MessageBody": body} for n, body in enumerate(some)],
            )
            assert not answer.get("Failed"), answer["Failed"]
            found = {each["Id"]: each["MessageId"] for each in answer["Successful"]}
            ids += [found[str(number)] for number in range(len(some))]
        return ids

    def collect_refused_moves(self) -> list[str]:
        """What the database's own guard of the diagram has refused so far."""
        signs = ("cannot go from", "cannot begin as", "takes a new send number")
        log = self.stack.home.log_path("postgres").read_text(errors="replace")
        self._refused_moves |= {
            line for line in log.splitlines() if any(sign in line for sign in signs)
        }
        return sorted(self._refused_moves)


@dataclass
class Run:
    """One scenario, while it strikes and afterwards.

    Attributes:
        seconds: over which its sends are spread, and so how long its faults strike.
        notice: told the number of acknowledged sends.
        problems: what went wrong other than by a broken promise of the evidence.
        poisoned: (kind, monotonic time of sending) by MessageId.
        copied: the gifts whose message was copied.
    """

    world: World
    name: str
    seed: int
    sends: int
    seconds: float
    notice: Callable[[int], None] = lambda _: None
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    poisoned: dict[str, tuple[str, float]] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    settled: float = 0.0

    def __post_init__(self) -> None:
        self.load = Load(
            self.world.client,
            # Keys are remembered for ever: those of one stack must differ.
            f"{self.name}-{self.seed}-{time.time_ns()}",
            count=self.sends,
            per_second=self.sends / self.seconds,
        )

    def chance(self, purpose: str) -> random.Random:
        """A generator for one purpose, so that one injector's draws do not change another's."""
        return random.Random(f"{self.seed}/{self.name}/{purpose}")

    def note(self, injector: str, what: str) -> None:
        self.faults.append(Fault(injector, what, time.monotonic() - self.began))

    def send(self) -> None:
        try:
            self.load.run(lambda: self.notice(len(self.load.accepted)))
        except Exception as error:  # noqa: BLE001 - a result like the others: the checks go on
            self.problems.append(f"a caller: {error}")

    def poison(self, bodies: Sequence[tuple[str, str]]) -> None:
        now = time.monotonic()
        ids = self.world.send_batch("gifts", [body for _, body in bodies])
        for message_id, (kind, _) in zip(ids, bodies, strict=True):
            self.poisoned[message_id] = (kind, now)
            self.note("poison", kind)

    def poison_to_be_found(self) -> dict[str, str]:
        """What SQS did not lose itself: {message id: kind}."""
        return {
            message_id: kind
            for message_id, (kind, sent_at) in self.poisoned.items()
            if sent_at > self.world.sqs_lost_at
        }

    @property
    def counts(self) -> Counter[str]:
        """Faults by kind, those of the provider included."""
        counts = Counter(fault.injector for fault in self.faults)
        for entry in self.world.provider.entries():
            if entry["fate"] in BY_PROVIDER and entry["key"] in self.load.created:
                counts[BY_PROVIDER[entry["fate"]]] += 1
        return counts


def make_poison(run: Run, count: int) -> list[tuple[str, str]]:
    return poison.messages(run.chance("poison"), count)


def settle(
    world: World,
    runs: Sequence[Run],
    *,
    within: float = SETTLE_WITHIN,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Wait until nothing moves any more: every accepted gift is final, nothing waits in the
    outbox, no message of a gift is left in the queue, seen or hidden, and poison is buried.

    Only then can "once" be said: a copy that is still hidden could have a second effect.

    Args:
        say: told what is waited for.
    """
    deadline = time.monotonic() + within
    while (missing := _missing(world, runs)) and time.monotonic() < deadline:
        say(missing)
        time.sleep(0.3)
    for run in runs:
        run.settled = time.monotonic()
        if missing:
            run.problems.append(f"not settled within {within:g} s: {missing}")
    return not missing


def _missing(world: World, runs: Sequence[Run]) -> str:
    accepted = [gift for run in runs for gift in run.load.accepted]
    waiting = world.database.rows(
        "SELECT count(*) FROM gifts WHERE id = ANY(%s::uuid[]) AND status = 'QUEUED'", accepted
    )[0][0]
    if waiting:
        return f"{waiting} gifts are QUEUED"
    staged = world.database.rows("SELECT count(*) FROM outbox WHERE queue = 'gifts'")[0][0]
    if staged:
        return f"{staged} rows in the outbox"
    if depth := world.depth("gifts"):
        return f"{depth} messages in the queue"
    poison_ids = [message for run in runs for message in run.poison_to_be_found()]
    buried = world.database.rows(
        "SELECT count(*) FROM dead_letters WHERE message_id = ANY(%s)", poison_ids
    )[0][0]
    if buried < len(poison_ids):
        return f"{len(poison_ids) - buried} poison messages are no dead letters"
    # The reconciler copies what SQS buries; it may be a sweep behind.
    letters = world.depth("gifts-dlq")
    copied = world.database.rows("SELECT count(*) FROM dead_letters WHERE queue = 'gifts'")[0][0]
    return "" if copied >= letters else f"{letters - copied} dead letters are not copied"


def gather(run: Run) -> evidence.Evidence:
    return evidence.gather(
        run.world.database,
        run.world.provider.calls(),
        created=sorted(run.load.created),
        accepted=run.load.accepted,
        poison=run.poison_to_be_found(),
        refused_moves=run.world.collect_refused_moves(),
        sqs_lost_messages=run.world.sqs_lost_at > run.began,
    )


@contextmanager
def world(home: Home) -> Iterator[World]:
    """The whole world, with instruments, its processes ready."""
    with home.locked():
        pass  # makes the folder
    with Provider(home.path / "ledger.jsonl") as provider:
        # The parts are the stack's own, whatever the caller's environment points at.
        environ = {
            "PATH": os.environ["PATH"],
            "SENDER": "webhook",
            "SENDER_URL": provider.url,
            "SENDER_SECRET": provider.secret,
            "SENDER_READ_TIMEOUT": str(READ_TIMEOUT),
        }
        if "PYTHONPATH" in os.environ:  # another checkout than the one that is installed
            environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
        with Stack(home, environ=environ) as stack:  # durable: PostgreSQL is stopped at once
            made = World(stack, provider)
            made.database.install()
            stack.processes.start()
            stack.wait_until_ready()
            yield made


def behave(run: Run, **rules: Any) -> None:
    """Tell the provider how to be from now on."""
    run.world.provider.obey(Rules(seed=f"{run.seed}/{run.name}", **rules))


def subject_of(body: str) -> str | None:
    """The gift that a message is about."""
    try:
        _args, kwargs, _embed = json.loads(json.loads(body)["body"])
        return str(kwargs["gift_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
