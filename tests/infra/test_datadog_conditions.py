"""terraform/datadog: over which time a monitor looks, what an objective counts, what is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from okuru.datadog.files import FOLDER, load
from okuru.drill import signals
from tests.infra.queries import SERIES, series, strings

ROOT = Path(__file__).parents[2]
DEFINITIONS = load(FOLDER, env="prod", notify="", docs="", extended=True)
MONITORS = {each.key: each.body for each in DEFINITIONS if each.kind == "monitor"}
OBJECTIVES = {each.key: each.body for each in DEFINITIONS if each.kind == "slo"}
(DASHBOARD,) = (each.body for each in DEFINITIONS if each.kind == "dashboard")
WORDS = {"five": 5, "ten": 10, "fifteen": 15, "thirty": 30}
MINUTES = rf"(\d+|{'|'.join(WORDS)}) minutes"

every_monitor = pytest.mark.parametrize("key", MONITORS)


class Conditions(NamedTuple):
    aggregation: str
    window: str
    """The shorter one of a burn rate, whose other a test of its own holds."""
    on_missing_data: str | None
    renotify: int
    new_group_delay: int | None = None


#: What calls somebody at silence is what always says something while all is well.
CALLS = "show_and_notify_no_data"
CONDITIONS = {
    "alb-5xx": Conditions("sum", "5m", "resolve", 30),
    "healthy-hosts": Conditions("max", "5m", CALLS, 30),
    "api-running-below-desired": Conditions("max", "15m", CALLS, 60, 900),
    "worker-running-below-desired": Conditions("max", "15m", CALLS, 60, 900),
    "queue-backlog": Conditions("min", "10m", "resolve", 60),
    "worker-failures": Conditions("count", "5m", "default", 120),
    "rds-cpu": Conditions("avg", "15m", CALLS, 120),
    "rds-connections": Conditions("avg", "10m", "show_no_data", 120),
    "outbox-age": Conditions("min", "5m", CALLS, 60),
    "dead-letters": Conditions("max", "5m", "resolve", 1440),
    "worker-not-consuming": Conditions("min", "10m", "resolve", 60),
    "jobs-waiting": Conditions("min", "10m", "show_no_data", 120),
    "slo-burn-fast": Conditions("burn_rate", "5m", None, 60),
    "slo-burn-slow": Conditions("burn_rate", "30m", None, 240),
}
_OVER = (
    re.compile(r"^(?P<how>avg|max|min|sum)\(last_(?P<window>\w+)\):"),
    re.compile(r'^logs\(.*\.rollup\("(?P<how>\w+)"\)\.last\("(?P<window>\w+)"\)'),
    re.compile(r'^(?P<how>burn_rate)\(.*\.short_window\("(?P<window>\w+)"\)'),
)


def over(key: str) -> tuple[str, str]:
    """How a monitor makes one number of its window, and how long that is."""
    (found,) = filter(None, (each.search(MONITORS[key]["query"]) for each in _OVER))
    return found["how"], found["window"]


def minutes(text: str, pattern: str = MINUTES) -> set[int]:
    """Every number of minutes, in words or figures, that stands as the pattern has it."""
    found = (number for each in re.finditer(pattern, text) for number in each.groups() if number)
    return {WORDS.get(number.lower()) or int(number) for number in found}


# --- when a monitor rings -----------------------------------------------------------------------


def test_when_each_monitor_rings() -> None:
    found = {
        key: Conditions(
            *over(key),
            body["options"].get("on_missing_data"),
            body["options"]["renotify_interval"],
            body["options"].get("new_group_delay"),
        )
        for key, body in MONITORS.items()
    }
    assert found == CONDITIONS


@every_monitor
def test_the_minutes_of_a_message_are_those_of_its_query(key: str) -> None:
    what, why, *_ = MONITORS[key]["message"].split("\n\n")
    window = int(over(key)[1].removesuffix("m"))
    assert minutes(what) <= {window}
    # Other times are spoken of there too: what a send may take, what a retry hides.
    said = rf"(?i:\b(?:over|all|of|in) {MINUTES}|\b{MINUTES}(?: long|, because))"
    assert minutes(why, said) <= {window}


def test_the_minutes_of_a_message_are_read() -> None:
    """Else the test above would hold nothing."""
    read = {key for key, body in MONITORS.items() if minutes(body["message"].split("\n\n")[0])}
    assert read == {
        "alb-5xx",
        "api-running-below-desired",
        "worker-running-below-desired",
        "worker-failures",
        "rds-cpu",
        "worker-not-consuming",
    }


@every_monitor
def test_whom_silence_calls_is_what_the_message_says(key: str) -> None:
    silence = MONITORS[key]["message"].split("\n\n")[2]
    calls = MONITORS[key]["options"].get("on_missing_data") == CALLS
    assert ("someone must look" in silence) == calls


@every_monitor
def test_the_page_says_over_which_time_it_rings(key: str) -> None:
    page = (ROOT / "docs/observability.md").read_text()
    (rings,) = re.findall(rf"^\| \[`{key}`\]\S+ \| P\d \| ([^|]+) \|", page, re.M)
    window = over(key)[1]
    if key.startswith("slo-burn"):
        assert f" {window[:-1]} m" in rings
    else:
        same = {"worker-running-below-desired": "the same", "dead-letters": "any"}
        assert minutes(rings) == {int(window[:-1])} or rings.startswith(same.get(key, "-"))


def compared(key: str) -> tuple[str, list[str]]:
    """What a monitor compares with what, each series as an m, and the metrics of these."""
    query = MONITORS[key]["query"].partition("):")[2]
    return SERIES.sub("m", query).replace(".as_count()", ""), [e.metric for e in series(query)]


def test_what_each_monitor_compares() -> None:
    alb, ecs, sqs = "aws.applicationelb", "aws.ecs.service", "aws.sqs.approximate"
    missing = "m - m < 0", [f"{ecs}.running", f"{ecs}.desired"]
    executed = "default_zero(m) + default_zero(m)"
    measured = {key for key, body in MONITORS.items() if body["type"] == "query alert"}
    assert {key: compared(key) for key in measured} == {
        "alb-5xx": (
            "default_zero(m) + default_zero(m) > 10",
            [f"{alb}.httpcode_target_5xx", f"{alb}.httpcode_elb_5xx"],
        ),
        "healthy-hosts": ("m < 1", [f"{alb}.healthy_host_count"]),
        "api-running-below-desired": missing,
        "worker-running-below-desired": missing,
        "queue-backlog": ("m > 300", [f"{sqs}_age_of_oldest_message"]),
        "rds-cpu": ("m > 80", ["aws.rds.cpuutilization"]),
        "rds-connections": ("m > 340", ["aws.rds.database_connections"]),
        "outbox-age": ("m > 60", ["okuru.outbox_oldest_age_seconds"]),
        "dead-letters": ("m > 0", [f"{sqs}_number_of_messages_visible"]),
        "worker-not-consuming": (
            f"m / (1 + {signals.MORE_THAN_WAIT} * ({executed})) > 0.9",
            [
                f"{sqs}_number_of_messages_visible",
                "okuru.attempts.count",
                "okuru.duplicates.count",
            ],
        ),
        "jobs-waiting": ("m > 900", ["okuru.jobs_oldest_pending_age_seconds"]),
    }


def test_the_drill_has_the_formula_of_workers_that_do_not_consume() -> None:
    assert signals.MORE_THAN_WAIT == 1000
    assert signals.waiting_unless_executed(1, 0) == 1
    assert signals.waiting_unless_executed(900, 1) < 0.9
    assert signals.waiting_unless_executed(1001, 1) == 1


def test_the_drill_counts_over_the_windows_of_the_monitors() -> None:
    counted = {"alb-5xx", "worker-failures", "slo-burn-fast"}
    assert {over(key)[1] for key in counted} == {"5m"}
    assert signals.WINDOW * signals.SPEED == 5 * 60
    target = OBJECTIVES["api-availability"]["target_threshold"]
    assert pytest.approx(1 - target / 100) == signals.BUDGET


# --- what an objective counts -------------------------------------------------------------------

PROBES = ("!route:/healthz", "!route:/readyz", "!route:/metrics")


def test_what_each_objective_counts() -> None:
    """Of the total, what fails is a part: without it the objective would always be met."""
    requests, durations = "okuru.http_requests.count", "okuru.http_request_duration_seconds"
    assert {key: parts(body) for key, body in OBJECTIVES.items()} == {
        "api-availability": {
            "good_events": (requests, {"env:prod", "!status:5*", *PROBES}),
            "bad_events": (requests, {"env:prod", "status:5*", *PROBES}),
        },
        "api-latency": {
            "good_events": (f"{durations}.bucket", {"env:prod", "upper_bound:0.3", *PROBES}),
            "total_events": (f"{durations}.count", {"env:prod", *PROBES}),
        },
        "sends-in-time": {
            "good_events": (
                "okuru.delivery_latency_seconds.bucket",
                {"env:prod", "kind:gift", "upper_bound:300.0"},
            ),
            "total_events": ("okuru.settled.count", {"env:prod", "kind:gift"}),
        },
    }


def parts(objective: dict[str, Any]) -> dict[str, tuple[str, set[str]]]:
    """{what is counted: its metric and the terms of its filter}."""
    counts = dict(objective["sli_specification"]["count"])
    queries = {each["name"]: each["query"] for each in counts.pop("queries")}
    found = {}
    for name, formula in counts.items():
        query = queries.pop(formula["formula"])
        (one,) = series(query)
        assert query == f"sum:{one.metric}{{{one.filter}}}.as_count()"
        found[name.removesuffix("_formula")] = one.metric, set(one.filter.split(","))
    assert queries == {}
    return found


# --- what is shown ------------------------------------------------------------------------------

#: Each group of the dashboard, and what it cannot be without.
GROUPS = {
    "Objectives over 30 days": ("okuru.http_request_duration_seconds.bucket",),
    "Load balancer": ("aws.applicationelb.httpcode_elb_5xx", "aws.applicationelb.request_count"),
    "API": ("okuru.http_requests.count",),
    "ECS": ("aws.ecs.service.running", "aws.ecs.service.desired"),
    "Database and cache": ("aws.rds.cpuutilization", "aws.rds.database_connections"),
    "Queues and outbox": (
        "aws.sqs.approximate_age_of_oldest_message",
        "aws.sqs.approximate_number_of_messages_visible",
        "okuru.outbox_oldest_age_seconds",
    ),
    "Sends": ("okuru.deliveries.count", "okuru.settled.count"),
}


def test_the_dashboard_shows_each_part_from_the_outside_in() -> None:
    groups = {
        each["definition"]["title"]: each["definition"]["widgets"]
        for each in DASHBOARD["widgets"]
        if each["definition"]["type"] == "group"
    }
    assert list(groups) == list(GROUPS)
    for title, needed in GROUPS.items():
        asked = {
            one.metric
            for text in strings(groups[title], "query", "q")
            if not text.startswith("$env service")
            for one in series(text)
        }
        assert asked >= set(needed), title
    page = (ROOT / "docs/observability.md").read_text().partition("\n### The dashboard\n")[2]
    described = re.findall(r"^\d\. \*([^*]+)\*", page.partition("\n### ")[0], re.M)
    assert described == [title.removesuffix(" over 30 days") for title in GROUPS]


def test_sends_are_shown_by_their_outcome() -> None:
    (sends,) = [each for each in DASHBOARD["widgets"] if each["definition"].get("title") == "Sends"]
    by = {
        (one.metric, tag)
        for text in strings(sends, "query")
        if not text.startswith("$env service")
        for one in series(text)
        for tag in one.tags
    }
    assert {("okuru.deliveries.count", "outcome"), ("okuru.settled.count", "status")} <= by


def test_every_objective_is_shown_over_30_days() -> None:
    shown = [
        widget["definition"]
        for group in DASHBOARD["widgets"]
        if group["definition"].get("title") == "Objectives over 30 days"
        for widget in group["definition"]["widgets"]
    ]
    (listed,) = [each for each in shown if each["type"] == "slo_list"]
    assert listed["requests"][0]["query"]["query_string"] == "managed-by:okuru $env"
    assert listed["requests"][0]["query"]["limit"] >= len(OBJECTIVES)
    numbers = [each for each in shown if each["title"].endswith("30 days")]
    assert len(numbers) == 3
    assert {each["time"]["live_span"] for each in numbers} == {"1mo"}
