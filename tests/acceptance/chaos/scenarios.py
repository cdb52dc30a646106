"""Which faults strike which sends. Each scenario sends its own gifts while it strikes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.acceptance.chaos.faults import (
    BreakSqs,
    Copy,
    Injector,
    KillRelay,
    KillWorkers,
    Poison,
    StopPostgres,
    catch,
    injecting,
    multiply,
)
from tests.acceptance.chaos.poison import KINDS
from tests.acceptance.chaos.promises import ALL, broken, everything_is_sent
from tests.acceptance.chaos.world import (
    LATE_BY,
    READ_TIMEOUT,
    Run,
    World,
    behave,
    gather,
    make_poison,
    subject_of,
)
from tests.acceptance.client import wait_until

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

PUBLISHED_WITHIN = 120.0
#: A process that keeps dying is started again after 15 s, and the worker's children take some more.
WHOLE_WITHIN = 60.0


def kill_workers(run: Run) -> None:
    """kill -9 of a random worker process every 2 s."""
    behave(run, slow=_busy(run))
    with injecting(KillWorkers(run, every=2, first=1)):
        run.send()


def kill_callers(run: Run) -> None:
    """The caller dies between the provider's effect and our commit, or gives up just before the
    answer; a repeated call gets 409."""
    behave(run, kill=0.3, late=0.1, late_by=LATE_BY)
    run.send()
    # Before the next scenario tells the provider to behave in another way.
    killed = "kill caller"
    wait_until(lambda: run.counts[killed], within=PUBLISHED_WITHIN, what="a caller is killed")


def kill_relay(run: Run) -> None:
    """The relay dies between publishing and deleting, so it publishes twice."""
    behave(run)
    with injecting(KillRelay(run, every=0.5)):
        run.send()


def copy_all(run: Run) -> None:
    """Each message comes eleven times, in any order; a repeated call gets the first answer."""
    behave(run, slow=0.05, repeat="first")
    worker = run.world.stack.processes["worker"]
    worker.stop()  # so that every message can be caught
    try:
        run.send()
        wait_until(lambda: not _staged(run.world), within=PUBLISHED_WITHIN, what="all published")
        copied = multiply(run, run.chance("copy"), _catch_all(run))
    finally:
        worker.start()
    run.note("copy", f"{copied} messages")


def stop_postgres(run: Run) -> None:
    """PostgreSQL is stopped at once, and started again, under load."""
    behave(run, slow=0.1)
    with injecting(StopPostgres(run, every=8, first=2)):
        run.send()


def break_sqs(run: Run) -> None:
    """SQS is frozen, killed with all its messages, and comes back with none."""
    behave(run, slow=0.1)
    with injecting(BreakSqs(run, frozen_for=_freeze(run), first=1)):
        run.send()


def poison(run: Run) -> None:
    """Bad messages of every kind between the good ones: the worker stays up."""
    behave(run)
    worker = run.world.stack.processes["worker"]
    pid = worker.pid
    with injecting(Poison(run, _poison(run), over=run.seconds)):
        run.send()
    wait_until(lambda: not _staged(run.world), within=PUBLISHED_WITHIN, what="all published")
    if worker.pid != pid:
        run.problems.append("a poison message has ended the worker")


def everything(run: Run) -> None:
    """All of it at once, and a provider that often fails."""
    behave(run, slow=_busy(run), fail=0.05, kill=0.03, late=0.01, late_by=LATE_BY)
    injectors: list[Injector] = [
        KillWorkers(run, every=2),
        KillRelay(run, every=3, first=1),
        Copy(run, every=0.3),
        StopPostgres(run, every=20, first=run.seconds * 0.6),
        BreakSqs(run, frozen_for=_freeze(run), first=run.seconds * 0.1),
        Poison(run, _poison(run), over=run.seconds),
    ]
    with injecting(*injectors):
        run.send()


@dataclass(frozen=True)
class Scenario:
    """
    Attributes:
        share: of the sends that were asked for; the kill of workers has all of them.
        seconds: over which the sends are spread while the faults strike: in full, and in short.
        strict: whether every gift must end SENT, since nothing can use up five executions.
    """

    strike: Callable[[Run], None]
    share: float
    seconds: tuple[float, float]
    strict: bool = True

    @property
    def name(self) -> str:
        return self.strike.__name__.replace("_", "-")

    @property
    def title(self) -> str:
        return " ".join((self.strike.__doc__ or "").split())

    def run(
        self,
        world: World,
        *,
        seed: int,
        sends: int,
        short: bool = False,
        notice: Callable[[int], None] = lambda _: None,
    ) -> Run:
        """Strike. Returns when sends and faults are over; what they left may still move."""
        run = Run(
            world,
            self.name,
            seed,
            sends=self.sends_of(sends),
            seconds=self.seconds[short],
            notice=notice,
        )
        try:
            # What the scenario before has killed may be waiting for its restart: this one's faults
            # would hit nothing.
            wait_until(world.is_whole, within=WHOLE_WITHIN, what="every process is up")
            self.strike(run)
        except Exception as error:  # noqa: BLE001 - a result like the others: the checks go on
            run.problems.append(f"the scenario itself: {type(error).__name__}: {error}")
        return run

    def sends_of(self, sends: int) -> int:
        return max(10, round(sends * self.share))

    def broken(self, run: Run) -> list[str]:
        """What was promised and not kept, once nothing moves any more."""
        found = gather(run)
        promises = (*ALL, everything_is_sent) if self.strict else ALL
        return run.problems + broken(found, promises)


#: Those that lose SQS's messages come first: a short run strikes all of them before it waits.
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(break_sqs, share=0.3, seconds=(25, 6)),
        Scenario(everything, share=1, seconds=(50, 9), strict=False),
        Scenario(kill_workers, share=1, seconds=(40, 5)),
        Scenario(kill_callers, share=0.3, seconds=(15, 2)),
        Scenario(kill_relay, share=0.3, seconds=(20, 3)),
        Scenario(copy_all, share=0.1, seconds=(3, 1)),
        Scenario(stop_postgres, share=0.3, seconds=(25, 4)),
        Scenario(poison, share=1, seconds=(25, 2)),
    )
}


def _busy(run: Run) -> float:
    """How slow the provider has to be at most, for the worker's processes to be at work for most
    of the time: else the kills hit idle ones."""
    workers = int(run.world.stack.environment["WORKER_COUNT"])
    return min(READ_TIMEOUT * 0.75, 2 * 0.8 * workers * run.seconds / run.sends)


def _freeze(run: Run) -> float:
    """15 s, or less where the sends are soon over."""
    return 15.0 if run.seconds > 20 else run.seconds / 4


def _poison(run: Run) -> list[tuple[str, str]]:
    """1 %, and where that is little each kind once."""
    return make_poison(run, max(len(KINDS), run.sends // 100))


def _staged(world: World) -> int:
    return int(world.database.rows("SELECT count(*) FROM outbox WHERE queue = 'gifts'")[0][0])


def _catch_all(run: Run) -> list[MessageTypeDef]:
    """A message for each gift. The last poll of the stopped worker may have hidden some."""
    caught: list[MessageTypeDef] = []

    def all_caught() -> bool:
        caught.extend(catch(run))
        return run.load.created <= {subject_of(message["Body"]) for message in caught}

    wait_until(all_caught, within=PUBLISHED_WITHIN, what="a message of each gift")
    return caught
