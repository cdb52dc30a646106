"""The figures as tables, with what the issue aims at."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.load.environment import PROCESSES

ENGINE, API = "this engine", "this API"
#: The calls of a consumer: changes of visibility count, too.
SETTLING = ("Receive", "Delete", "Change")

Samples = dict[str, list[dict[str, Any]]]


def machine() -> dict[str, Any]:
    models = [
        line.partition(":")[2].strip()
        for line in _lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": [round(each, 2) for each in os.getloadavg()],
        "consumer_processes": PROCESSES,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def aims(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What issue 3 asks for, and what came: of each round by itself, so that noise meets both."""
    found: list[dict[str, Any]] = []

    def aim(text: str, values: Sequence[float], *, least: float = 0, most: float = inf) -> None:
        middle = median(values)
        found.append(
            {
                "aim": text,
                "bound": f"≥ {least:.2f}" if least else f"≤ {most:.2f}" if most < inf else "",
                "median": middle,
                "range": [min(values), max(values)],
                "met": least <= middle <= most,
            }
        )

    if noop := results.get("noop"):
        aim("no-op: this engine / stock Celery", _ratios(noop, ENGINE, "stock Celery"), least=2)
        aim("no-op: this engine / dramatiq-sqs", _ratios(noop, ENGINE, "dramatiq-sqs"), least=1)
        calls = [_sum(each["calls_per_message"], *SETTLING) for each in noop[ENGINE]]
        aim("no-op: receives and deletes a message", calls, most=0.35)
    if gifts := results.get("gifts"):
        aim("real send: this engine / boto3 loop", _ratios(gifts, ENGINE, "boto3 loop"), least=0.8)
    if accept := results.get("accept"):
        aim("accept: this API / inline publish", _ratios(accept, API, "inline publish"), least=2)
        aim("accept: this API / bare route", _ratios(accept, API, "bare route"), least=0.5)
        aim("accept: this API / pgbench, for comparison", _ratios(accept, API, "pgbench"))
    for name, samples in results.get("memory", {}).items():
        few, many = samples[::2], samples[1::2]
        growth = [
            after["rss_mib"] / before["rss_mib"] for before, after in zip(few, many, strict=True)
        ]
        aim(f"memory of {name}: many / 100 waiting", growth, most=1.02)
    if backlog := results.get("backlog"):
        for step in ("accept", "relay", "send"):
            ratio = backlog["steps"][step]["ratio"]
            aim(f"backlog: time to {step}, many / few", [ratio], most=1.1)
    return found


def _ratios(samples: Samples, ours: str, other: str) -> list[float]:
    pairs = zip(samples[ours], samples[other], strict=True)
    return [mine["per_second"] / theirs["per_second"] for mine, theirs in pairs]


def show(results: dict[str, Any], console: Console) -> None:
    if noop := results.get("noop"):
        console.print(_consumers("No-op tasks (all by message)", noop))
    if gifts := results.get("gifts"):
        console.print(_consumers("The real send (all by message)", gifts))
        relayed = [each["relayed_per_second"] for samples in gifts.values() for each in samples]
        rate, spread = _spread(relayed)
        console.print(f"The relay published {rate} rows/s ({spread}).\n")
    if accept := results.get("accept"):
        console.print(_accept(accept))
    if memory := results.get("memory"):
        table = _table("The largest process, MiB", "process", "waiting", "MiB", "range")
        for name, samples in memory.items():
            for count in sorted({each["waiting"] for each in samples}):
                sizes = [each["rss_mib"] for each in samples if each["waiting"] == count]
                table.add_row(name, f"{count:,}", *_spread(sizes, digits=1))
        console.print(table)
    if backlog := results.get("backlog"):
        console.print(_backlog(backlog))
    table = _table("Aims", "aim", "bound", "median", "range", "")
    for each in results["aims"]:
        low, high = each["range"]
        table.add_row(
            each["aim"],
            each["bound"],
            f"{each['median']:.2f}",
            f"{low:.2f} – {high:.2f}",
            ("met" if each["met"] else "not met") if each["bound"] else "",
        )
    console.print(table)


def _consumers(title: str, samples: Samples) -> Table:
    """The calls are those of the drain: what the emulator was asked until the last delete."""
    has_publishing = "published_per_second" in next(iter(samples.values()))[0]
    table = _table(
        title,
        *("consumer", "messages/s", "range", "receives", "deletes", "others"),
        *("CPU ms", "emulator ms", *["published/s"] * has_publishing),
    )
    for name, each in samples.items():
        calls = [sample["calls_per_message"] for sample in each]
        cpu = {
            who: median(sample["cpu_ms_per_message"][who] for sample in each)
            for who in ("consumer", "emulator")
        }
        published = [s["published_per_second"] for s in each if has_publishing]
        table.add_row(
            name,
            *_spread(sample["per_second"] for sample in each),
            f"{median(_sum(call, 'Receive') for call in calls):.3f}",
            f"{median(_sum(call, 'Delete') for call in calls):.3f}",
            f"{median(sum(c.values()) - _sum(c, 'Receive', 'Delete') for c in calls):.3f}",
            f"{cpu['consumer']:.2f}",
            f"{cpu['emulator']:.2f}",
            *(f"{median(published):,.0f}" for _ in range(has_publishing)),
        )
    return table


def _sum(calls: dict[str, float], *beginnings: str) -> float:
    return sum(count for action, count in calls.items() if action.startswith(beginnings))


def _accept(samples: Samples) -> Table:
    table = _table(
        "The accept path", "", "requests/s", "range", "p50 ms", "p95 ms", "server CPU ms"
    )
    for name, each in samples.items():
        cpu = [sample["cpu_ms_per_request"]["server"] for sample in each if "p50_ms" in sample]
        p50, p95 = (
            [sample[key] for sample in each if key in sample] for key in ("p50_ms", "p95_ms")
        )
        table.add_row(
            name,
            *_spread(sample["per_second"] for sample in each),
            *(f"{median(values):.1f}" if values else "" for values in (p50, p95)),
            f"{median(cpu):.2f}" if cpu else "",
        )
    return table


def _backlog(backlog: dict[str, Any]) -> Table:
    table = _table(
        f"With {backlog['gifts']:,} gifts and {backlog['outbox']:,} outbox rows",
        *("step", "few: ms", "many: ms", "ratio", "few: pages", "many: pages"),
    )
    for step, each in backlog["steps"].items():
        table.add_row(
            step,
            f"{each['small_ms']:.2f}",
            f"{each['large_ms']:.2f}",
            f"{each['ratio']:.2f}",
            f"{each['small_pages']:.0f}",
            f"{each['large_pages']:.0f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _spread(values: Iterable[float], *, digits: int = 0) -> tuple[str, str]:
    """Median, and range."""
    known = list(values)
    return (
        f"{median(known):,.{digits}f}",
        f"{min(known):,.{digits}f} – {max(known):,.{digits}f}",
    )
