"""Everything around the scheme that can go wrong: SQS, workers, a provider, a relay, an outage.

One random source decides who moves next. `run()` breaks things for a while, then `quiet()` lets
the survivors finish; `check()` says what must hold at every moment, `check_quiet()` at the end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from tests.unit.delivery.model import (
    BACKOFF,
    HARD_LIMIT,
    MAX_EXECUTIONS,
    MAX_RECEIVES,
    MAX_RESTAGES,
    OUTAGE_DELAY,
    VISIBILITY,
    Decision,
    Delivery,
    Held,
    Letter,
    Scheme,
)


class Violation(AssertionError):
    """A promise of the scheme was broken."""


@dataclass
class Message:
    id: str
    gift: int
    send_no: int
    receives: int = 0
    visible_at: int = 0
    dead: bool = False


@dataclass
class Worker:
    """One delivery on its way through a worker."""

    message: Message
    delivery: Delivery
    received_at: int
    phase: str = "received"
    held: Held | None = None
    decision: Decision | None = None
    outcome: str = ""
    frozen_until: int = 0


class World:
    def __init__(self, scheme: Scheme, random: Random, *, premise: bool = True) -> None:
        """
        Args:
            premise: an execution ends before its message can be delivered again; that is what
                "time limits < visibility timeout" buys. Without it the fence cannot hold.
        """
        self.scheme = scheme
        self.random = random
        self.premise = premise
        self.messages: dict[str, Message] = {}
        self.workers: list[Worker] = []
        self.outage = False
        self.breaking = True
        self.numbered = 0
        self.success = random.choice((0.5, 3, 10))
        self.executions: Counter[tuple[int, int]] = Counter()
        self.accepted: set[int] = set()
        self.refused: set[tuple[int, int]] = set()
        self.history: list[str] = []
        self.gifts = [scheme.create() for _ in range(random.choice((1, 1, 2)))]
        for gift in self.gifts:
            scheme.queue(gift)

    # --- the run ---

    def run(self, steps: int) -> None:
        crashes, freezes = self.random.choice((1, 3, 8)), self.random.choice((1, 4))
        moves = (
            [self.relay] * 3 + [self.receive] * 6 + [self.work] * 12 + [self.wait] * 5
            + [self.crash] * crashes + [self.freeze] * freezes
            + [self.switch_outage, self.lose, self.reconcile, self.recover, self.ask_again]
        )  # fmt: skip
        for _ in range(steps):
            self.random.choice(moves)()
            self.check()
        self.quiet()
        self.check_quiet()

    def quiet(self) -> None:
        """Nothing breaks any more: the system has to come to rest by itself."""
        self.breaking = self.outage = False
        for worker in self.workers:
            worker.frozen_until = 0
        for _ in range(400):
            self.relay()
            self.reconcile()
            self.recover()
            self.receive()
            while self.workers:
                self.work()
                self.check()
            self.wait()
            if self._is_quiet():
                return
        raise Violation("the system does not come to rest")

    def _is_quiet(self) -> bool:
        return (
            not self.scheme.outbox
            and all(message.dead for message in self.messages.values())
            and all(row.status in ("SENT", "FAILED") for row in self.scheme.rows.values())
            and all(message in self.scheme.letters for message in self.messages)
        )

    # --- moves ---

    def wait(self) -> None:
        self.scheme.now += self.random.choice((1, 5, 10, 30, 60))
        if not self.premise:
            return
        for worker in list(self.workers):
            if worker.phase == "effect" and self._age(worker) > HARD_LIMIT:
                # The hard time limit: killed, and hidden for the back-off by the parent.
                self._leave(worker, "killed by its time limit")
                self._hide(worker, self._backoff(worker))

    def relay(self) -> None:
        if self.outage:
            return
        dies = self.breaking and self.random.random() < 0.3
        published = self.scheme.look_at_outbox() if dies else self.scheme.take()
        for gift, send_no in published:
            self.numbered += 1
            message = Message(f"m{self.numbered}", gift, send_no, visible_at=self.scheme.now)
            self.messages[message.id] = message
            self._say(f"published {message.id} gift {gift} send {send_no}" + " and died" * dies)

    def receive(self) -> None:
        for message in self._visible():
            if message.receives >= MAX_RECEIVES:
                message.dead = True
                self._say(f"{message.id} is a dead letter")
        visible = self._visible()
        if not visible:
            return
        message = self.random.choice(visible)
        message.receives += 1
        message.visible_at = self.scheme.now + VISIBILITY
        delivery = Delivery(message.id, message.receives)
        self.workers.append(Worker(message, delivery, self.scheme.now))
        self._say(f"received {message.id} for the {message.receives}. time")

    def work(self) -> None:
        if awake := self._awake():
            worker = self.random.choice(awake)
            getattr(self, f"_{worker.phase}")(worker)

    def _received(self, worker: Worker) -> None:
        if self.outage:
            self._leave(worker, "no database for the claim")
            self._hide(worker, OUTAGE_DELAY)
            return
        late = self._age(worker) > VISIBILITY - HARD_LIMIT
        if self.premise and late and self._could_claim(worker):
            self._leave(worker, "came too late to begin")
            return
        message = worker.message
        answer = self.scheme.claim(message.gift, message.send_no, worker.delivery)
        self._say(f"claim of {worker.delivery.message_id}#{worker.delivery.receive_count}", answer)
        if isinstance(answer, Decision):
            worker.decision, worker.phase = answer, "decided"
            return
        worker.held, worker.phase = answer, "effect"
        self.executions[answer.gift, answer.send_no] += 1
        inside = [each for each in self.workers if each.phase == "effect"]
        if [each.message.gift for each in inside].count(message.gift) > 1:
            raise Violation("two executions inside the provider at once")

    def _effect(self, worker: Worker) -> None:
        key = (worker.message.gift, worker.message.send_no)
        outcome = self.random.choices(
            ("sent", "transient", "timeout", "permanent"), (self.success, 8, 4, 1)
        )[0]
        if outcome == "sent":
            self.accepted.add(key[0])
        if outcome == "permanent":
            self.refused.add(key)
        if outcome == "timeout" and self.random.random() < 0.5:
            self.accepted.add(key[0])  # nobody knows
        worker.outcome, worker.phase = outcome, "effected"
        if self.breaking and self.random.random() < 0.1:
            self.freeze()

    def _effected(self, worker: Worker) -> None:
        """From here on a worker may be late by any time: the provider has answered."""
        assert worker.held is not None
        if self.outage:
            self._leave(worker, "no database for the record")
            self._hide(worker, OUTAGE_DELAY)
            return
        if worker.outcome == "sent":
            worker.decision = self.scheme.succeed(worker.held)
        else:
            worker.decision = self.scheme.fail(worker.held, worker.outcome)
        self._say(f"{worker.outcome} of {worker.delivery.message_id}", worker.decision)
        worker.phase = "decided"

    def _decided(self, worker: Worker) -> None:
        assert worker.decision is not None
        self.workers.remove(worker)
        match worker.decision.settle:
            case "delete":
                # SQS may honour an old receipt handle, or may not.
                if self._is_current(worker) or self.random.random() < 0.5:
                    self.messages.pop(worker.message.id, None)
            case "retry":
                self._hide(worker, self._backoff(worker))
            case "expose":
                self._hide(worker, 0)

    def crash(self) -> None:
        """At any of its points: before the claim, in the effect, before the record, the delete."""
        if awake := self._awake():
            worker = self.random.choice(awake)
            self._leave(worker, f"crashed: {worker.phase}")
            if self.random.random() < 0.5:  # the child alone: its parent rejects the message
                self._hide(worker, self._backoff(worker))

    def freeze(self) -> None:
        """A process that stands still where no provider waits for it, longer than any timeout."""
        idle = [worker for worker in self._awake() if worker.phase != "effect"]
        if idle:
            worker = max(idle, key=lambda worker: worker.phase == "effected")
            worker.frozen_until = self.scheme.now + self.random.choice((20, 60, 250, 500))
            self._say(f"{worker.delivery.message_id} frozen: {worker.phase}")

    def switch_outage(self) -> None:
        self.outage = not self.outage and self.random.random() < 0.4
        self._say("outage" if self.outage else "the database answers")

    def lose(self) -> None:
        """A message vanishes: retention, a purge by hand."""
        live = [message for message in self.messages.values() if not message.dead]
        if live and self.random.random() < 0.3:
            message = self.random.choice(live)
            del self.messages[message.id]
            self._say(f"{message.id} vanished")

    def reconcile(self) -> None:
        if self.outage:
            return
        for message in [message for message in self.messages.values() if message.dead]:
            decision = self.scheme.reconcile(Letter(message.id, message.gift, message.send_no))
            self._say(f"reconciled {message.id}: {decision}")

    def recover(self) -> None:
        if not self.outage:
            recovered = self.scheme.recover_stalled(len(self._visible()))
            self._say(f"recovered {recovered}")

    def ask_again(self) -> None:
        failed = [gift for gift in self.gifts if self.scheme.rows[gift].status == "FAILED"]
        if failed and not self.outage and self.random.random() < 0.5:
            gift = self.random.choice(failed)
            self.scheme.ask_again(gift)
            self._say(f"gift {gift} is asked for again")

    # --- promises ---

    def check(self) -> None:
        for (gift, send_no), executions in self.executions.items():
            if executions > MAX_EXECUTIONS:
                raise Violation(f"gift {gift}: {executions} executions of send {send_no}")
        for gift, row in self.scheme.rows.items():
            sent = [attempt for attempt in row.attempts if attempt.outcome == "sent"]
            if len(sent) != (row.status == "SENT"):
                raise Violation(f"gift {gift} is {row.status} with {len(sent)} sent attempts")
            if row.status == "SENT" and gift not in self.accepted:
                raise Violation(f"gift {gift} is SENT, and the provider never took it")
            if row.status == "FAILED" and not self._may_have_failed(gift):
                raise Violation(f"gift {gift} failed too early: {row}")

    def _may_have_failed(self, gift: int) -> bool:
        row = self.scheme.rows[gift]
        match row.failure:
            case "permanent":
                return (gift, row.send_no) in self.refused
            case "exhausted":
                return self.executions[gift, row.send_no] == MAX_EXECUTIONS
            case "unknown":
                return row.executions == MAX_EXECUTIONS or row.restages == MAX_RESTAGES
        return False

    def check_quiet(self) -> None:
        """`_is_quiet()` has seen that every send is final and every letter was read."""
        for gift, row in self.scheme.rows.items():
            left_open = [attempt for attempt in row.attempts if attempt.outcome is None]
            if left_open and row.status != "SENT":
                raise Violation(f"gift {gift} is {row.status} with open attempts")

    # --- SQS ---

    def _visible(self) -> list[Message]:
        return [
            message
            for message in self.messages.values()
            if not message.dead and message.visible_at <= self.scheme.now
        ]

    def _is_current(self, worker: Worker) -> bool:
        return worker.message.receives == worker.delivery.receive_count

    def _hide(self, worker: Worker, seconds: int) -> None:
        """Unless another delivery has the say, or the call was lost on its way."""
        if self._is_current(worker) and not (self.breaking and self.random.random() < 0.1):
            worker.message.visible_at = self.scheme.now + seconds

    def _backoff(self, worker: Worker) -> int:
        return BACKOFF[min(worker.delivery.receive_count, len(BACKOFF)) - 1]

    def _awake(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.frozen_until <= self.scheme.now]

    def _age(self, worker: Worker) -> int:
        return self.scheme.now - worker.received_at

    def _could_claim(self, worker: Worker) -> bool:
        row = self.scheme.rows[worker.message.gift]
        return (
            row.status == "QUEUED"
            and row.send_no == worker.message.send_no
            and row.carrier in (None, worker.delivery.message_id)
            and row.receive < worker.delivery.receive_count
        )

    def _leave(self, worker: Worker, why: str) -> None:
        self.workers.remove(worker)
        self._say(f"{worker.delivery.message_id}#{worker.delivery.receive_count}: {why}")

    def _say(self, what: str, answer: object = "") -> None:
        self.history.append(f"{self.scheme.now:5} {what} {answer}")
