"""The numbers of docs/cost.md and docs/scaling.md: calculated again, and held against Terraform."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent
TERRAFORM = PROJECT / "terraform"
COST = PROJECT / "docs" / "cost.md"
SCALING = PROJECT / "docs" / "scaling.md"
QUEUES = json.loads((PROJECT / "tasks" / "engine" / "queues.json").read_text())
ENVIRONMENTS = {"Dev": "dev", "Prod": "prod", "Large": "prod"}
CENT = Decimal("0.01")

Row = Mapping[str, str]


# --- reading tables -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    heading: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def tables(page: Path) -> Iterator[Table]:
    heading, lines = "", []
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if lines:
            columns, _, *rows = lines
            yield Table(
                heading,
                tuple(columns),
                tuple(dict(zip(columns, row, strict=True)) for row in rows),
            )
            lines = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def number(cell: str) -> Decimal:
    return Decimal(cell.strip("*").replace(",", "").replace("−", "-"))


def value(expression: str) -> Decimal:
    """Of numbers, brackets, + − × and ÷ or /."""
    words = {"×": "*", "÷": "/", "−": "-", ",": ""}
    source = "".join(words.get(character, character) for character in expression)
    return _evaluate(ast.parse(source, mode="eval").body, source)


def _evaluate(node: ast.expr, source: str) -> Decimal:
    if isinstance(node, ast.Constant):
        # As it is written: 0.1 is a tenth.
        return Decimal(str(ast.get_source_segment(source, node)))
    assert isinstance(node, ast.BinOp), f"no arithmetic: {source}"
    left, right = _evaluate(node.left, source), _evaluate(node.right, source)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
    raise AssertionError(f"no arithmetic: {source}")


BILLS = [table for table in tables(COST) if "amount" in table.columns]
BY_HEADING = {table.heading: table for table in BILLS}
PRICES = {
    row["name"]: number(row["USD"])
    for table in tables(COST)
    if "usage type" in table.columns
    for row in table.rows
}


def row(heading: str, resource: str) -> Row:
    (found,) = [each for each in BY_HEADING[heading].rows if each["resource"] == resource]
    return found


def quantity(heading: str, resource: str) -> Decimal:
    return value(row(heading, resource)["quantity"])


# --- the sums -----------------------------------------------------------------------------------


def test_there_are_bills_and_prices() -> None:
    assert {*ENVIRONMENTS, "With Datadog"} <= BY_HEADING.keys()
    assert len(PRICES) > 20


@pytest.mark.parametrize("bill", BILLS, ids=lambda bill: bill.heading)
def test_amounts_are_products_and_totals_are_sums(bill: Table) -> None:
    total = Decimal(0)
    for each in bill.rows:
        if each["resource"] == "**total**":
            assert number(each["amount"]) == total
            continue
        assert number(each["price"]) == PRICES[each["unit"]], each
        amount = (value(each["quantity"]) * number(each["price"])).quantize(CENT, ROUND_HALF_UP)
        assert number(each["amount"]) == amount, each
        total += amount


def test_the_summary_is_that_of_the_bills() -> None:
    (summary,) = [table for table in tables(COST) if "dollars a thousand gifts" in table.columns]
    for each in summary.rows:
        total = number(row(each["size"].capitalize(), "**total**")["amount"])
        thousands = number(each["gifts a month"]) / 1000
        assert number(each["dollars a month"]) == total
        assert number(each["dollars a thousand gifts"]) == (total / thousands).quantize(
            Decimal("0.001"), ROUND_HALF_UP
        )


# --- what Terraform says ------------------------------------------------------------------------


def hcl(file: str) -> str:
    return (TERRAFORM / file).read_text()


def setting(text: str, name: str) -> str:
    found = re.search(rf'^\s*{name}\s*=\s*"?([^"\n#]+?)"?\s*(?:#.*)?$', text, re.MULTILINE)
    assert found, name
    return found[1]


PROCESSES = {
    name: {key: int(size) for key, size in re.findall(r"(\w+) = (\d+)", sizes)}
    for name, sizes in re.findall(r"^ {4}(\w+) +=  ?\{( cpu = .+?) \}", hcl("ecs.tf"), re.MULTILINE)
}


def test_the_processes_were_found() -> None:
    assert {"web", "worker", "jobs", "relay", "beat"} <= PROCESSES.keys()


@pytest.mark.parametrize("heading", ENVIRONMENTS)
def test_tasks_have_the_sizes_and_counts_of_ecs(heading: str) -> None:
    for process, task in PROCESSES.items():
        count, cpu, hours = map(Decimal, row(heading, f"{process}: vCPU")["quantity"].split(" × "))
        assert cpu == Decimal(task["cpu"]) / 1024
        assert hours == 730
        memory = Decimal(task["memory"]) / 1024
        assert quantity(heading, f"{process}: memory") == count * memory * hours
        if heading == "Large":
            assert task["min"] <= count <= task["max"]
        else:
            assert count == (task["min"] if heading == "Prod" else min(task["min"], 1))


def tasks(heading: str, *processes: str) -> Decimal:
    return sum(
        (
            Decimal(row(heading, f"{process}: vCPU")["quantity"].split(" × ")[0])
            for process in processes or PROCESSES
        ),
        Decimal(0),
    )


@pytest.mark.parametrize("heading", ENVIRONMENTS)
def test_database_and_cache_are_those_of_the_environment(heading: str) -> None:
    environment = hcl(f"environments/{ENVIRONMENTS[heading]}.tfvars.example")
    production = heading != "Dev"
    classes = [
        each for each in BY_HEADING[heading].rows if each["resource"].startswith("database: db.")
    ]
    assert len(classes) == 1
    named, zones = classes[0]["resource"].removeprefix("database: ").split(", ")
    assert setting(hcl("rds.tf"), "multi_az") == "local.production"
    assert zones == ("Multi-AZ" if production else "Single-AZ")
    assert classes[0]["unit"] == named + ("-maz" if production else "")
    if heading != "Large":  # whose class is told to be another one
        assert named == setting(environment, "database_instance_class")
    storage = "max_allocated_storage" if heading == "Large" else "allocated_storage"
    assert quantity(heading, "database: storage") == int(setting(hcl("rds.tf"), storage))

    node = setting(environment, "cache_node_type")
    assert setting(hcl("redis.tf"), "num_cache_clusters") == "local.production ? 2 : 1"
    assert quantity(heading, f"cache: {node}") == (2 if production else 1) * 730


@pytest.mark.parametrize("heading", ENVIRONMENTS)
def test_the_network_is_that_of_the_environment(heading: str) -> None:
    private = setting(
        hcl(f"environments/{ENVIRONMENTS[heading]}.tfvars.example"), "private_network"
    )
    resources = {each["resource"] for each in BY_HEADING[heading].rows}
    if private == "false":
        assert quantity(heading, "tasks: public addresses") == tasks(heading) * 730
        assert not resources & {"NAT gateways", "endpoints"}
        return
    found = re.search(r"endpoints = var.private_network \? toset\((\[.+\])\)", hcl("vpc.tf"))
    assert found
    zones = json.loads(re.findall(r"default += (\[.+zon.*\]|\[\"ap-.+\])", hcl("variables.tf"))[0])
    assert quantity(heading, "endpoints") == len(json.loads(found[1])) * len(zones) * 730
    assert quantity(heading, "NAT gateways") == len(zones) * 730
    assert "tasks: public addresses" not in resources


@pytest.mark.parametrize("heading", ENVIRONMENTS)
def test_polls_and_alarms_are_those_of_the_catalogue(heading: str) -> None:
    groups: dict[str, int] = {}
    for queue in QUEUES.values():
        groups[queue["group"]] = groups.get(queue["group"], 0) + 1
    polls = sum(tasks(heading, group) * queues for group, queues in groups.items())
    assert quantity(heading, "SQS: idle polls") == polls * 180 * 730 / 1_000_000
    # Two alarms a queue; two a policy of autoscaling, each paid by the metrics that it reads: the
    # queues of the group and the running tasks, and one for each of the two of the API.
    scaling = sum(2 * (queues + 1) for queues in groups.values()) + 2 * 2
    assert quantity(heading, "alarms") == 2 * len(QUEUES) + scaling


def test_datadog_doubles_the_memory_of_each_task() -> None:
    assert "(var.datadog_enabled ? 2 : 1)" in hcl("ecs.tf")
    memory = sum(quantity("Prod", f"{process}: memory") for process in PROCESSES)
    assert quantity("With Datadog", "twice the memory, for Agent and log router") == memory
    assert quantity("With Datadog", "tasks") == tasks("Prod")


# --- the other pages ----------------------------------------------------------------------------


def test_the_arithmetic_of_scaling_is_right() -> None:
    checked = 0
    for table in tables(SCALING):
        if {"arithmetic", "result"} <= set(table.columns):
            for each in table.rows:
                shown = re.match(r"[\d.,]+", each["result"])
                assert shown, each
                written = shown[0].rstrip(".,").replace(",", "")
                digits = Decimal(1).scaleb(-len(written.partition(".")[2]))
                assert abs(value(each["arithmetic"]) - Decimal(written)) <= digits / 2, each
                checked += 1
    assert checked > 10


def test_the_figures_of_the_readme_are_those_of_performance() -> None:
    performance = (PROJECT / "docs" / "performance.md").read_text()
    (load,) = [table for table in tables(PROJECT / "README.md") if table.heading == "Load"]
    for each in load.rows:
        for figure in re.findall(r"\d[\d.,]*\d|\d", each["measured"]):
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d])", performance), each
