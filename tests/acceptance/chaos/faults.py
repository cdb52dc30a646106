"""The injectors. Each is a thread that does one kind of harm, by a seeded plan, and notes it.

They end only processes of the stack at hand, and only through it.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from okuru.stack import provision
from tasks.engine.sqs import SQS_ERRORS
from tests.acceptance.chaos.instruments import GATE, OUTAGE, WAITING
from tests.acceptance.chaos.world import Run, subject_of
from tests.acceptance.client import wait_until

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

COPIES = 10


class Injector(threading.Thread):
    """Does harm every so many seconds, so that the stack is hit in all states of recovery."""

    kind: str

    #: Whether a run in which it has hit nothing is no good.
    must_hit = True

    def __init__(
        self, run: Run, *, every: float, first: float | None = None, times: int | None = None
    ) -> None:
        """
        Args:
            every: seconds between two faults.
            first: seconds until the first one; by default the same.
            times: at most so many faults.
        """
        super().__init__(name=self.kind, daemon=True)
        self.run_ = run
        self.chance: random.Random = run.chance(self.kind)
        self._every = every
        self._first = every if first is None else first
        self._times = times
        self._over = threading.Event()

    def strike(self) -> str | None:
        """Do harm once. Returns what was done, None if there was nothing to harm."""
        raise NotImplementedError

    def run(self) -> None:
        pause, left = self._first, self._times
        while left != 0 and not self._over.wait(pause):
            try:
                what = self.strike()
            except Exception as error:  # noqa: BLE001 - said with the results
                self.run_.problems.append(f"injector {self.kind}: {type(error).__name__}: {error}")
                return
            if what is not None:
                self.run_.note(self.kind, what)
                left = None if left is None else left - 1
            pause = self._every

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def end(self) -> None:
        """Let it finish the fault at hand: what it stopped, it starts again."""
        self._over.set()
        self.join()


@contextmanager
def injecting(*injectors: Injector) -> Iterator[None]:
    """Harm, for the length of the block. Who can be sure to hit must have hit at least once."""
    with ExitStack() as ends:
        for injector in injectors:
            injector.start()
            ends.callback(injector.end)
        yield
    for injector in injectors:
        if injector.must_hit and not injector.run_.counts[injector.kind]:
            injector.run_.problems.append(f"injector {injector.kind} has hit nothing")


class KillWorkers(Injector):
    """kill -9 of the worker or one of its children, all of them equally likely.

    Only of one that has its children: a worker that is killed each time while it is starting is
    started ever more seldom, and has nothing in hand.
    """

    kind = "kill worker"

    def strike(self) -> str | None:
        worker = self.run_.world.stack.processes["worker"]
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(worker.pid)
            if not (children := main.children()):
                return None
            victim = self.chance.choice([main, *children])
            if victim is main:
                worker.kill()
                return "main"
            victim.kill()
            return "child"
        return None


class KillRelay(Injector):
    """kill -9 of the relay when SQS has taken the messages and their rows are not yet deleted.

    The gate holds the commit of the deletion. Once the relay waits there it is killed, and then
    its session is ended, so that the server sees what it sees of a process that died before it
    could ask for the commit: the deletion is undone.
    """

    kind = "kill relay"

    def strike(self) -> str | None:
        with suppress(*OUTAGE):
            return self._strike()
        return None  # the database is harmed as well, at this moment

    def _strike(self) -> str | None:
        world = self.run_.world
        relay = world.stack.processes["relay"]
        with world.database.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [GATE])
            session = None
            while session is None and not self.is_over:
                cursor.execute(WAITING, [GATE])
                session = cursor.fetchone()
                time.sleep(0.005)
            if session is None:
                return None
            victim = relay.pid
            relay.kill()
            # The supervisor may have started another one by the time we look.
            wait_until(lambda: not _runs(victim), within=10, what="the relay is dead")
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", session)
        return "after publishing, before the commit"


class StopPostgres(Injector):
    """An immediate shutdown: no checkpoint, no farewell. Then it is started again."""

    kind = "stop PostgreSQL"

    def strike(self) -> str:
        postgres = self.run_.world.stack.postgres
        down_for = self.chance.uniform(0.5, 4)
        postgres.child.signal(signal.SIGQUIT)
        wait_until(lambda: not postgres.child.alive, within=20, what="PostgreSQL is down")
        self.run_.world.collect_refused_moves()  # before a new log replaces this one
        time.sleep(down_for)  # the length of the outage
        postgres.start()
        postgres.wait_until_ready()
        return f"SIGQUIT, back after {down_for:.1f} s"


class BreakSqs(Injector):
    """Frozen for a while, then killed with all its messages, then back with empty queues."""

    kind = "break SQS"

    def __init__(self, run: Run, *, frozen_for: float, first: float) -> None:
        super().__init__(run, every=0, first=first, times=1)
        self._frozen_for = frozen_for

    def strike(self) -> str:
        world = self.run_.world
        child = world.stack.sqs.child
        frozen = psutil.Process(child.pid)
        frozen.suspend()
        try:
            self._over.wait(self._frozen_for)
        finally:
            frozen.resume()
        # What it was asked meanwhile it answers now, some of it; a pause is no luck here.
        time.sleep(self.chance.uniform(0.2, 2))
        child.signal(signal.SIGKILL)
        wait_until(lambda: not child.alive, within=10, what="SQS is dead")
        world.stack.sqs.start()
        world.stack.sqs.wait_until_ready()
        provision.create_queues(world.stack.environment)
        world.sqs_lost_at = time.monotonic()
        return f"frozen for {self._frozen_for:g} s, killed, back"


class Poison(Injector):
    """Bad messages between the good ones."""

    kind = "poison"

    def __init__(self, run: Run, messages: Sequence[tuple[str, str]], *, over: float) -> None:
        """`over`: seconds over which they are spread."""
        super().__init__(run, every=over / len(messages), first=0, times=len(messages))
        self._messages = iter(messages)

    def strike(self) -> None:
        """Notes each message itself. When SQS is harmed as well, it takes the next."""
        message = next(self._messages, None)
        if message is None:
            self._over.set()
            return
        with suppress(*SQS_ERRORS):
            self.run_.poison([message])

    def end(self) -> None:
        """Send what is left of it."""
        super().end()
        for message in self._messages:
            with suppress(*SQS_ERRORS):
                self.run_.poison([message])


class Copy(Injector):
    """Ten copies of whatever message can be caught before a worker has it; none of a copy."""

    kind = "copy"
    #: Workers may be faster every time. `copy_all`, while none runs, copies in any case.
    must_hit = False

    def strike(self) -> str | None:
        with suppress(*SQS_ERRORS):
            if copied := multiply(self.run_, self.chance, catch(self.run_)):
                return f"{copied} messages"
        return None


def catch(run: Run) -> list[MessageTypeDef]:
    """Up to ten messages of the queue, hidden for a while. It waits for them, as workers do."""
    answer = run.world.sqs.receive_message(
        QueueUrl=run.world.catalogue.url("gifts"),
        MaxNumberOfMessages=10,
        VisibilityTimeout=60,
        WaitTimeSeconds=1,
        MessageSystemAttributeNames=["ApproximateReceiveCount"],
    )
    return answer.get("Messages", [])


def multiply(run: Run, chance: random.Random, caught: Sequence[MessageTypeDef]) -> int:
    """Put back what is caught, and ten copies of it, shuffled.

    Copied are messages of this run, once for each gift: copies of copies would bury the queue.
    What nobody had before us is put back as a new message: our receive does not count. What may
    be the carrier of its gift has to stay the same message, and loses one.

    Returns how many messages were copied, ten times each.
    """
    url = run.world.catalogue.url("gifts")
    bodies = {subject_of(each["Body"]): each["Body"] for each in caught}
    fresh = [gift for gift in bodies if gift in run.load.created - run.copied]
    ours = [message for message in caught if _is_untouched(run, message)]
    sent = [bodies[gift] for gift in fresh] * COPIES + [message["Body"] for message in ours]
    chance.shuffle(sent)
    run.world.send_batch("gifts", sent)
    run.copied.update(gift for gift in fresh if gift)
    for message in caught:
        handle = message["ReceiptHandle"]
        if message in ours:
            run.world.sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
        else:
            run.world.sqs.change_message_visibility(
                QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
            )
    return len(fresh)


def _is_untouched(run: Run, message: MessageTypeDef) -> bool:
    receives = int(message["Attributes"]["ApproximateReceiveCount"])
    return receives == 1 and subject_of(message["Body"]) in run.load.created


def _runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
