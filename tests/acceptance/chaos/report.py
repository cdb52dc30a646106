"""What was injected, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tests.acceptance.chaos.scenarios import Scenario
from tests.acceptance.chaos.world import Run, gather


@dataclass(frozen=True)
class Result:
    scenario: str
    seed: int
    sends: int
    answers: dict[str, int]
    faults: dict[str, int]
    log: list[dict[str, Any]]
    """Each injected fault, and when."""
    statuses: dict[str, int]
    outcomes: dict[str, int]
    effects: int
    repeated_calls: int
    unknown_outcomes: int
    """FAILED gifts that had their effect: their last execution died before it was recorded."""
    dead_letters: int
    superseded_letters: int
    """Of a gift that another message has sent."""
    poison: int
    seconds: float
    broken: list[str]

    @classmethod
    def of(cls, scenario: Scenario, run: Run) -> Result:
        found = gather(run)
        gifts = found.gifts
        effects = {call.key for call in found.calls if call.effect}
        return cls(
            scenario=run.name,
            seed=run.seed,
            sends=len(run.load.accepted),
            answers=dict(run.load.answers),
            faults=dict(run.counts),
            log=[vars(fault) for fault in run.faults],
            statuses=dict(Counter(gift.status for gift in gifts.values())),
            outcomes=dict(Counter(str(attempt.outcome) for attempt in found.attempts)),
            effects=sum(call.effect for call in found.calls),
            repeated_calls=sum(call.fate == "repeated" for call in found.calls),
            unknown_outcomes=sum(gifts[key].status == "FAILED" for key in effects),
            dead_letters=len(found.letters),
            superseded_letters=sum(
                gifts[letter.gift_id].status == "SENT" for letter in found.letters
            ),
            poison=len(found.buried),
            seconds=round(run.settled - run.began, 1),
            broken=scenario.broken(run),
        )


def table(results: list[Result]) -> Table:
    made = Table(title="Chaos: faults injected, and what came of them", show_lines=True)
    for name in ("scenario", "faults", "results", "promises"):
        made.add_column(name)
    for each in results:
        outcome = f"[red]{len(each.broken)} broken[/]" if each.broken else "[green]kept[/]"
        made.add_row(
            each.scenario,
            "\n".join(f"{count} {kind}" for kind, count in sorted(each.faults.items())),
            _results(each),
            f"{outcome}\n{each.seconds:.0f} s",
        )
    return made


def _results(each: Result) -> str:
    lines = [
        f"{each.sends} sends: " + _counts(each.statuses),
        f"{each.effects} effects, {each.repeated_calls} repeated calls",
    ]
    if each.dead_letters:
        lines.append(f"{each.dead_letters} dead letters, {each.superseded_letters} superseded")
    if each.unknown_outcomes:
        lines.append(f"{each.unknown_outcomes} FAILED with an effect: outcome unknown")
    return "\n".join(lines)


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    return [vars(each) for each in results]
