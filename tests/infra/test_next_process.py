"""The next process is a row in each table that it concerns, and who forgets one is told which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from okuru import procfile
from tests.infra import test_joined, test_terraform
from tests.infra.terraform import PROJECT, ROOT, Terraform

PROCFILE = procfile.read()
#: What is put into the tables, beside what it is about.
SMALL = "{ cpu = 256, memory = 512"
RULE = '{ priority = 10, paths = ["/hub"] }'
STRAYS = json.dumps(
    {
        "group": "nobody",
        "visibility_timeout": 30,
        "max_receive_count": 5,
        "retention_days": 1,
        "max_hold": 9,
    }
)


@pytest.fixture
def changed(terraform: Terraform, tmp_path: Path) -> Callable[..., Terraform]:
    """Terraform on a copy of what it reads, with a line after the first that begins so."""
    for name in ("Procfile", "tasks/engine/queues.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    shutil.copytree(ROOT, tmp_path / "terraform")

    def change(*lines: tuple[str, str, str]) -> Terraform:
        for name, beginning, line in lines:
            path = tmp_path / name
            before, found, after = path.read_text().partition(f"\n{beginning}")
            assert found, (name, beginning)
            path.write_text(f"{before}\n{line}{found}{after}")
        return terraform.at(tmp_path / "terraform")

    return change


def test_a_process_behind_the_load_balancer_is_a_row_in_two_tables(
    changed: Callable[..., Terraform],
) -> None:
    copy = changed(
        ("Procfile", "worker:", "hub: okuru hub"),
        ("terraform/ecs.tf", "    worker = {", f"hub = {SMALL}, min = 2, max = 2 }}"),
        (
            "terraform/alb.tf",
            "    web = {",
            f'hub = {{ port = 8090, health = "/", rule = {RULE} }}',
        ),
    )
    dev = copy.environment("dev")

    assert set(copy.test("dev").runs.values()) == {"pass"}, copy.test("dev").said
    assert dev.below("aws_lb_target_group.process").keys() == {"web", "hub"}
    assert dev.below("aws_lb_listener_rule.path").keys() == {"hub"}
    test_joined.test_behind_each_target_group_is_its_process_and_nothing_else_listens(dev)
    test_joined.test_the_internet_reaches_the_load_balancer_by_tls(dev)
    test_terraform.test_every_way_out_leads_where_somebody_lets_one_in(dev)


def test_who_forgets_a_row_is_told_which(changed: Callable[..., Terraform]) -> None:
    """A process by its name, whatever that consists of: it would have neither size nor service."""
    copy = changed(
        ("Procfile", "worker:", "hub-2: okuru hub"),
        ("terraform/ecs.tf", "    worker = {", f"spare = {SMALL}, min = 1, max = 2 }}"),
        ("terraform/alb.tf", "    web = {", f'ghost = {{ port = 1, health = "/", rule = {RULE} }}'),
        ("tasks/engine/queues.json", '  "gifts"', f'"strays": {STRAYS},'),
    )
    said = copy.test("dev").said

    processes = ", ".join(sorted([*PROCFILE, "hub-2"]))
    assert f"The Procfile has {processes}: each needs its size" in said
    assert "Every queue's group (tasks/engine/queues.json) is a process of the Procfile" in said
    assert "What the load balancer calls (`listening`, alb.tf) is a process of the Procfile" in said
    assert "Who has another `max` than `min` (ecs.tf) needs something to be scaled by" in said
