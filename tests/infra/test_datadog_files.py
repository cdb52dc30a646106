"""terraform/datadog: what it watches exists, and everything it says is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from okuru import procfile
from okuru.datadog.files import FOLDER, Definition, load
from okuru.datadog.models import problems
from okuru.datadog.names import by_datadog_name, ours
from tests.infra.aws_metrics import AWS
from tests.infra.queries import Series, search_of, series, strings, terms

ROOT = Path(__file__).parents[2]
DEFINITIONS = load(FOLDER, env="prod", notify="@slack-okuru", docs="", extended=True)
MONITORS = [each for each in DEFINITIONS if each.kind == "monitor"]
EXTENDED = {path.stem for path in (FOLDER / "monitors/extended").glob("*.json")}
DEFAULT = {
    "alb-5xx",
    "healthy-hosts",
    "api-running-below-desired",
    "worker-running-below-desired",
    "queue-backlog",
    "worker-failures",
    "rds-cpu",
    "rds-connections",
}
#: The Agent gives these to every series of ours.
OF_THE_AGENT = {"env", "service", "version", "upper_bound"}

every_definition = pytest.mark.parametrize(
    "definition", DEFINITIONS, ids=lambda each: f"{each.kind}-{each.key}"
)
every_monitor = pytest.mark.parametrize("monitor", MONITORS, ids=lambda each: each.key)


def queries(definition: Definition) -> list[Series]:
    """Every metric that a file asks for."""
    found = strings(definition.body, "query", "q")
    texts = [text for text in found if not text.startswith(("logs(", "burn_rate(", "$env service"))]
    read = [each for text in texts for each in series(text)]
    assert read or definition.key in {"worker-failures", "slo-burn-fast", "slo-burn-slow"}
    return read


USED = [(each, one) for each in DEFINITIONS for one in queries(each)]


@every_definition
def test_the_api_knows_every_part(definition: Definition) -> None:
    assert problems(definition) == []


def test_the_models_see_what_is_wrong() -> None:
    """The check itself: a model of the client takes more than the API does."""

    def broken(**changes: Any) -> list[str]:
        return problems(Definition("monitor", "x", {**MONITORS[0].body, **changes}))

    assert broken() == []
    assert broken(thresholds={}) == ["thresholds: the API knows no such key"]
    assert broken(options={"thresholds": {"most": 1}}) == [
        "options.thresholds.most: the API knows no such key"
    ]
    assert broken(type="query alarm") == ["type: 'query alarm' is none of its values"]
    assert broken(priority="high") != []
    assert problems(Definition("monitor", "x", {"name": "x"})) != []


# --- metrics ------------------------------------------------------------------------------------


def test_every_metric_of_ours_in_a_query_exists_with_its_labels() -> None:
    known = by_datadog_name()
    asked = [(each.key, one) for each, one in USED if one.metric.startswith("okuru.")]
    assert len(asked) > 20
    assert [(key, one.metric) for key, one in asked if one.metric not in known] == []
    for key, one in asked:
        unknown = one.tags - known[one.metric].tags - OF_THE_AGENT
        assert not unknown, f"{key}: {one.metric} has no label {', '.join(unknown)}"
        assert "env" in one.tags or "$env" in one.filter, f"{key}: {one.metric} of all environments"


def test_every_bucket_that_is_asked_for_exists_and_is_sent() -> None:
    excluded = re.compile(_openmetrics()["exclude_metrics_by_labels"]["upper_bound"][0])
    asked = {
        (one.metric, bound)
        for _, one in USED
        for bound in re.findall(r"upper_bound:([\d.]+)", one.filter)
    }
    assert {bound for _, bound in asked} == {"0.3", "300.0"}  # the objectives' own limits
    for metric, bound in asked:
        assert float(bound) in by_datadog_name()[metric].upper_bounds
        assert not excluded.search(str(float(bound)))
    assert excluded.search("0.25")
    assert excluded.search("10.0")
    assert excluded.search("1300.0")


def test_every_metric_of_aws_is_known_with_its_tags() -> None:
    asked = [(each.key, one) for each, one in USED if one.metric.startswith("aws.")]
    assert {one.metric for _, one in asked} == AWS.keys()
    for key, one in asked:
        unknown = one.tags - AWS[one.metric][1]
        assert not unknown, f"{key}: {one.metric} has no tag {', '.join(unknown)}"
        bound = re.search(r"\benvironment:|okuru-(prod|\$env\.value)\b", one.filter)
        assert bound, f"{key}: {one.metric} of all environments"


def test_the_agent_collects_every_metric_of_ours_by_its_name() -> None:
    config = _openmetrics()
    assert config["metrics"] == [{each.family: each.name} for each in ours()]
    assert config["namespace"] == "okuru"
    assert config["collect_histogram_buckets"]
    assert not config["histogram_buckets_as_distributions"]


def test_the_names_follow_one_rule() -> None:
    names = {each.prometheus: each.datadog for each in ours()}
    assert names["okuru_http_requests_total"] == ("okuru.http_requests.count",)
    assert names["jobs_processed_total"] == ("okuru.jobs_processed.count",)
    assert names["okuru_outbox_oldest_age_seconds"] == ("okuru.outbox_oldest_age_seconds",)
    assert names["okuru_delivery_latency_seconds"][2] == "okuru.delivery_latency_seconds.bucket"
    assert len({name for each in ours() for name in each.datadog}) == sum(
        len(each.datadog) for each in ours()
    )


def _openmetrics() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((FOLDER / "openmetrics.json").read_text())
    return config


# --- what is watched ----------------------------------------------------------------------------


def test_every_process_but_the_api_is_a_worker_that_must_run() -> None:
    processes = set(procfile.read())
    for key, wanted in {
        "api-running-below-desired": {"web"},
        "worker-running-below-desired": processes - {"web"},
    }.items():
        asked = set(re.findall(r"servicename:okuru-prod-([\w-]+)", _monitor(key).body["query"]))
        assert asked == wanted, key


def test_the_backlog_is_that_of_the_workers_queues() -> None:
    catalogue = json.loads((ROOT / "tasks/engine/queues.json").read_text())
    workers = {name for name, queue in catalogue.items() if queue["group"] == "worker"}
    query = _monitor("queue-backlog").body["query"]
    assert set(re.findall(r"okuru-prod-([\w-]+)", query)) == workers
    # One that may be held longer would ring without a fault: its age counts while it is executed.
    limit = _monitor("queue-backlog").body["options"]["thresholds"]["critical"]
    assert all(catalogue[name]["max_hold"] <= limit for name in workers)
    jobs = _monitor("jobs-waiting").body["options"]["thresholds"]["critical"]
    assert jobs >= 900  # the time limit of a job


def test_every_field_of_a_log_query_is_documented() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)`", page.split("## Metrics")[0]))
    searches = [search_of(_monitor("worker-failures").body["query"]), *_log_widgets()]
    for search in searches:
        assert {each.field for each in terms(search)} <= documented
    assert {column.removeprefix("@") for column in _columns()} <= documented
    # The same failures are counted and shown.
    assert {str(terms(search)) for search in searches} == {str(terms(searches[0]))}


def test_a_log_is_found_by_either_name_of_its_service() -> None:
    """The line's own, and the one that the log router gives: Datadog decides which counts."""
    containers = (ROOT / "terraform/modules/service/containers.tf").read_text()
    given = re.findall(r'(?:dd_service|DD_SERVICE)\s+= "(\S+)"', containers)
    assert given == ["okuru-${var.name}"] * 2
    commands = procfile.read().items()
    workers = {"worker", *(f"okuru-{name}" for name, run in commands if " worker " in run)}
    assert len(workers) == 3
    for search in [search_of(_monitor("worker-failures").body["query"]), *_log_widgets()]:
        (service,) = [term for term in terms(search) if term.field == "service"]
        # test_watched_logs.py reads `worker` in a line.
        assert service.values == workers
    for page in (ROOT / "docs").glob("*.md"):
        for asked in re.findall(r"`(service:[^`]*)`", page.read_text()):
            assert terms(asked)[0].values in ({"api", "okuru-web"}, workers), f"{page}: {asked}"


def test_what_is_done_once_an_account_is_found_where_one_sets_it_up() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    (steps,) = re.findall(r"^### Once an account$(.*?)^###", page, re.M | re.S)
    assert "Preprocessing for JSON logs" in steps
    assert "(observability.md#once-an-account)" in (ROOT / "docs/IMPORT_NOTES.md").read_text()


def _log_widgets() -> list[str]:
    return [text for text in strings(_dashboard(), "query") if text.startswith("$env service")]


def _columns() -> list[str]:
    found = re.findall(r'"columns": (\[[^\]]*\])', json.dumps(_dashboard()))
    return [column for each in found for column in json.loads(each)]


def _dashboard() -> dict[str, Any]:
    (found,) = [each.body for each in DEFINITIONS if each.kind == "dashboard"]
    return found


def _monitor(key: str) -> Definition:
    (found,) = [each for each in MONITORS if each.key == key]
    return found


# --- what a monitor says ------------------------------------------------------------------------


def test_eight_monitors_by_default() -> None:
    found = load(FOLDER, env="prod", notify="", docs="", extended=False)
    assert {each.key for each in found if each.kind == "monitor"} == DEFAULT
    assert len(DEFAULT) == 8
    assert {
        "outbox-age",
        "dead-letters",
        "worker-not-consuming",
        "slo-burn-fast",
        "slo-burn-slow",
    } <= EXTENDED


@every_monitor
def test_a_monitor_says_why_how_urgent_and_what_to_do(monitor: Definition) -> None:
    body, options = monitor.body, monitor.body["options"]
    what, why, silence, runbook, notified = body["message"].split("\n\n")
    assert what
    assert why.startswith(f"Why {options['thresholds']['critical']}: ")
    assert silence.startswith("No data: ")
    assert runbook == f"Runbook: docs/runbook.md#{monitor.key}"
    assert notified == "@slack-okuru"
    assert body["priority"] in (1, 2, 3, 4, 5)
    assert body["name"].startswith("Okuru prod: ")
    assert {"managed-by:okuru", f"okuru-key:{monitor.key}", "env:prod"} < set(body["tags"])
    assert any(tag.startswith("service:") for tag in body["tags"])


@every_monitor
def test_the_threshold_of_the_query_is_that_of_the_options(monitor: Definition) -> None:
    thresholds = monitor.body["options"]["thresholds"]
    comparator, limit = monitor.body["query"].split()[-2:]
    assert float(limit) == thresholds["critical"]
    if "warning" in thresholds:
        earlier = thresholds["warning"] - thresholds["critical"]
        assert earlier < 0 if comparator == ">" else earlier > 0


@every_monitor
def test_late_and_missing_data_are_thought_of(monitor: Definition) -> None:
    options = monitor.body["options"]
    if monitor.body["type"] == "slo alert":
        return  # Datadog takes neither option for these
    assert options["on_missing_data"] in {
        "default", "resolve", "show_no_data", "show_and_notify_no_data"
    }  # fmt: skip
    if monitor.body["type"] == "query alert":
        assert options["require_full_window"] is False  # CloudWatch's points have gaps
        late = "aws." in monitor.body["query"]
        assert options.get("evaluation_delay") == (900 if late else None)


def test_every_monitor_has_its_section_of_the_runbook() -> None:
    page = (ROOT / "docs/runbook.md").read_text()
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", page, re.M)
    }
    assert {each.key for each in MONITORS} <= anchors


def test_the_table_of_monitors_is_theirs() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    rows = re.findall(r"^\| \[`([a-z0-9-]+)`\]\(runbook\.md#([a-z0-9-]+)\) \| P(\d) \|", page, re.M)
    assert {(key, anchor, int(priority)) for key, anchor, priority in rows} == {
        (each.key, each.key, each.body["priority"]) for each in MONITORS
    }


# --- objectives ---------------------------------------------------------------------------------


def test_the_objectives_are_those_of_the_docs() -> None:
    objectives = {each.key: each.body for each in DEFINITIONS if each.kind == "slo"}
    assert {key: body["target_threshold"] for key, body in objectives.items()} == {
        "api-availability": 99.9,
        "api-latency": 95,
        "sends-in-time": 95,
    }
    for body in objectives.values():
        assert body["thresholds"] == [{"timeframe": "30d", "target": body["target_threshold"]}]


@pytest.mark.parametrize(
    ("key", "long", "short", "rate"),
    [("slo-burn-fast", "1h", "5m", 14.4), ("slo-burn-slow", "6h", "30m", 6)],
)
def test_the_burn_rates_are_those_of_the_workbook(
    key: str, long: str, short: str, rate: float
) -> None:
    body = _monitor(key).body
    assert body["query"] == (
        f'burn_rate("${{slo:api-availability}}").over("30d")'
        f'.long_window("{long}").short_window("{short}") > {rate}'
    )
    # No more than everything can fail: a greater rate would never be reached.
    assert rate < 1 / (1 - 0.999)
