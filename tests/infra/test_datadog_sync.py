"""`okuru datadog sync` against an account on a real socket.

Where it matters the command is a process of its own. Elsewhere it runs in this one, and with a
dashboard of two widgets: that of the house takes the client's models a second to read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.infra.datadog_command import ROOT, Ended, Sync, okuru, okuru_process
from tests.infra.datadog_command import account as account
from tests.infra.datadog_command import folder as folder
from tests.infra.datadog_command import sync as sync
from tests.infra.datadog_stub import Account

DEFAULT, EXTENDED, OBJECTIVES, DASHBOARDS = 8, 6, 3, 1
ALL = DEFAULT + OBJECTIVES + DASHBOARDS


def counted(ended: Ended, *, code: int = 0) -> Counter[str]:
    assert ended.code == code, ended.err
    return Counter(item["action"] for item in ended.json["items"])


def change(folder: Path, path: str, **options: Any) -> None:
    file = folder / path
    body = json.loads(file.read_text())
    body["options"].update(options)
    file.write_text(json.dumps(body))


def test_the_first_run_makes_everything_and_the_second_writes_nothing(account: Account) -> None:
    """As it is used: a process, and the files of the house."""
    arguments = ("sync", "--api-url", account.url, "--notify", "@slack-okuru")
    first = okuru_process(*arguments)
    assert first.code == 0, first.err
    assert f"prod: {ALL} create\n" in first.out
    assert len(account.writes()) == ALL
    assert (len(account.slos), len(account.monitors), len(account.dashboards)) == (3, 8, 1)
    assert "${" not in account.everything()

    assert counted(okuru_process(*arguments, "--json")) == {"unchanged": ALL}
    assert account.writes() == []


def test_what_is_made_is_filled_in(account: Account, sync: Sync) -> None:
    sync("--extended-alerts", "--env", "dev", "--docs-url", "https://example.com/main")
    whole = account.everything()
    assert "${" not in whole
    (availability,) = [
        each["id"] for each in account.slos.values() if "okuru-key:api-availability" in each["tags"]
    ]
    (fast,) = [
        each for each in account.monitors.values() if "okuru-key:slo-burn-fast" in each["tags"]
    ]
    assert f'burn_rate("{availability}")' in fast["query"]
    assert "Runbook: https://example.com/main/docs/runbook.md#slo-burn-fast" in fast["message"]
    assert fast["message"].endswith("@slack-okuru")
    assert {"managed-by:okuru", "env:dev"} <= set(fast["tags"])


def test_one_threshold_is_one_update(account: Account, folder: Path, sync: Sync) -> None:
    sync("--json")
    account.writes()
    (identity,) = [
        name for name, each in account.monitors.items() if "okuru-key:rds-cpu" in each["tags"]
    ]
    change(folder, "monitors/rds-cpu.json", thresholds={"critical": 90, "warning": 65})
    file = folder / "monitors/rds-cpu.json"
    file.write_text(file.read_text().replace("> 80", "> 90"))

    ended = sync("--json")
    assert counted(ended) == {"update": 1, "unchanged": ALL - 1}
    assert account.writes() == [("PUT", f"/api/v1/monitor/{identity}")]
    (step,) = [item for item in ended.json["items"] if item["action"] == "update"]
    assert step["key"] == "rds-cpu"
    query, critical = step["changes"]
    assert query["path"] == "query"
    assert query["shall_be"] == query["is_now"].replace("> 80", "> 90")
    assert critical == {"path": "options.thresholds.critical", "is_now": 80, "shall_be": 90}
    assert account.monitors[identity]["options"]["thresholds"]["critical"] == 90
    assert counted(sync("--json")) == {"unchanged": ALL}


def test_what_someone_changed_by_hand_is_changed_back(account: Account, sync: Sync) -> None:
    sync("--json")
    (dashboard,) = account.dashboards.values()
    dashboard["widgets"][1]["definition"]["title"] = "mine"
    (objective, *_) = account.slos.values()
    objective["tags"].remove("service:okuru")
    ended = sync("--json")
    assert counted(ended) == {"update": 2, "unchanged": ALL - 2}
    paths = [each["path"] for item in ended.json["items"] for each in item["changes"]]
    assert paths == ["tags", "widgets[1].definition.title"]


def test_a_dry_run_writes_nothing(account: Account, folder: Path, sync: Sync) -> None:
    ended = sync("--dry-run", "--extended-alerts", "--json")
    assert counted(ended) == {"create": ALL + EXTENDED}
    assert account.writes() == []

    sync("--json")
    before = account.everything()
    account.writes()
    change(folder, "monitors/alb-5xx.json", renotify_interval=45)
    ended = sync("--dry-run")
    assert ended.code == 0
    assert "options.renotify_interval" in ended.out
    assert f"prod: {ALL - 1} unchanged, 1 update. Nothing was written: a dry run" in ended.out
    assert account.writes() == []
    assert account.everything() == before


def test_what_is_not_ours_is_never_touched(account: Account, sync: Sync) -> None:
    """Others' objects, also those that look like ours, and more of them than a page has."""
    for number in range(150):
        account.create("monitor", {"name": f"Theirs {number}", "tags": ["managed-by:okuru"]})
        account.create("slo", {"name": f"Theirs {number}", "tags": ["managed-by:okuru"]})
        account.create("dashboard", {"title": "Okuru", "description": None, "widgets": []})
    # Another environment's, and one of the same name that somebody made by hand.
    account.create("monitor", {"tags": ["managed-by:okuru", "okuru-key:rds-cpu", "env:dev"]})
    account.create("monitor", {"name": "Okuru prod: the database's CPU is busy", "tags": []})
    theirs = {kind: dict(account.store(kind)) for kind in ("slo", "monitor", "dashboard")}

    assert counted(sync("--json")) == {"create": ALL}
    # Ours stand on the second page now.
    account.writes()
    assert counted(sync("--prune", "--json")) == {"unchanged": ALL}
    assert account.writes() == []
    for kind, objects in theirs.items():
        assert objects.items() <= account.store(kind).items()


def test_two_environments_stand_beside_each_other(account: Account, sync: Sync) -> None:
    sync("--env", "prod", "--json")
    ended = sync("--env", "dev", "--json")
    assert counted(ended) == {"create": DEFAULT + OBJECTIVES, "unchanged": DASHBOARDS}
    assert counted(sync("--env", "prod", "--json")) == {"unchanged": ALL}


def test_what_has_no_file_is_told_and_deleted_only_if_asked(
    account: Account, folder: Path, sync: Sync
) -> None:
    sync("--json")
    account.writes()
    (folder / "monitors/rds-cpu.json").unlink()

    ended = sync()
    assert ended.code == 0
    assert "1 extra" in ended.out
    assert "--prune" in ended.err
    assert account.writes() == []

    assert counted(sync("--prune", "--dry-run", "--json"))["delete"] == 1
    assert account.writes() == []

    assert counted(sync("--prune", "--json")) == {"unchanged": ALL - 1, "delete": 1}
    assert [method for method, _ in account.writes()] == ["DELETE"]
    assert len(account.monitors) == DEFAULT - 1


def test_an_extended_monitor_has_its_file_and_is_never_pruned(account: Account, sync: Sync) -> None:
    """A run that does not ask for them knows nothing against them."""
    sync("--extended-alerts", "--json")
    account.writes()
    ended = sync("--prune", "--json")
    assert counted(ended) == {"unchanged": ALL, "skipped": EXTENDED}
    assert account.writes() == []
    assert "skipped: not compared, as --extended-alerts was not given" in sync().err


def test_whom_a_monitor_tells_is_not_forgotten_by_the_way(account: Account, sync: Sync) -> None:
    sync("--json")
    before = account.everything()
    account.writes()
    for arguments in ((), ("--dry-run",)):
        ended = okuru("sync", "--api-url", account.url, *arguments)
        assert ended.code == 1
        assert "rds-cpu, worker-failures, worker-running-below-desired would no longer tell" in (
            ended.err
        )
        assert "tell @slack-okuru: give --notify with whom they shall tell, or --notify ''" in (
            ended.err
        )
    assert account.writes() == []
    assert account.everything() == before
    assert counted(sync("--notify", "@pagerduty", "--json")) == {"update": 8, "unchanged": 4}
    assert counted(sync("--notify", "", "--json")) == {"update": 8, "unchanged": 4}
    assert "@" not in "".join(each["message"] for each in account.monitors.values())


def test_an_address_that_somebody_added_by_hand_is_one_too(account: Account, sync: Sync) -> None:
    sync("--notify", "", "--json")
    (monitor,) = [each for each in account.monitors.values() if "okuru-key:rds-cpu" in each["tags"]]
    as_it_was = monitor["message"]
    monitor["message"] += "{{#is_alert}}@someone@example.com{{/is_alert}}"
    ended = okuru("sync", "--api-url", account.url)
    assert ended.code == 1
    assert "Error: rds-cpu would no longer tell @someone" in ended.err
    # No address, and no reason to refuse.
    monitor["message"] = f"{as_it_was} a@b https://c@d"
    assert okuru("sync", "--api-url", account.url).code == 0


def test_two_runs_at_once_are_found_out_by_the_later(
    account: Account, folder: Path, sync: Sync
) -> None:
    arguments = ("--api-url", account.url, "--notify", "@slack-okuru", "--folder", str(folder))
    others: list[Ended] = []
    account.meanwhile.append(lambda: others.append(okuru_process("sync", *arguments)))

    ended = sync("--json")
    assert [each.code for each in others] == [0]
    assert counted(ended, code=1) == {"create": ALL, "twin": ALL}
    assert "there twice: dashboard overview, monitor alb-5xx, " in ended.err
    assert "slo sends-in-time. `okuru datadog sync --prune` takes the younger away" in ended.err
    assert len(account.monitors) == 2 * DEFAULT


def test_a_twin_is_told_until_the_younger_is_pruned(account: Account, sync: Sync) -> None:
    sync("--extended-alerts", "--json")
    account.writes()
    mine = dict(account.monitors)
    for key in ("rds-cpu", "dead-letters"):  # of the second the file is not asked for
        (twin,) = [each for each in mine.values() if f"okuru-key:{key}" in each["tags"]]
        account.create("monitor", twin)
    # The order of a list says nothing of age.
    account.monitors = dict(reversed(account.monitors.items()))

    ended = sync("--json")
    assert counted(ended, code=1) == {"unchanged": ALL, "skipped": EXTENDED, "twin": 2}
    assert "there twice: monitor dead-letters, monitor rds-cpu. `okuru" in ended.err
    assert account.writes() == []

    assert counted(sync("--prune", "--json")) == {
        "unchanged": ALL, "skipped": EXTENDED, "delete": 2
    }  # fmt: skip
    assert account.monitors == mine


def test_the_oldest_is_what_was_made_first(account: Account, sync: Sync) -> None:
    """As Datadog says it: a time, which ids need not follow."""
    sync("--json")
    (old,) = account.dashboards.values()
    account.create("dashboard", old)["created_at"] = "2025-12-31T09:30:00.000Z"
    assert counted(sync("--prune", "--json")) == {"unchanged": ALL, "delete": 1}
    (left,) = account.dashboards.values()
    assert left["id"] != old["id"]


# --- what goes wrong ----------------------------------------------------------------------------


def test_it_waits_when_datadog_asks_it_to(account: Account, sync: Sync) -> None:
    account.failures = [("GET", 429), ("GET", 503), ("POST", 429)]
    assert counted(sync("--json")) == {"create": ALL}
    assert account.failures == []
    assert len(account.writes()) == ALL + 1  # one was refused and sent again


def test_a_creation_whose_answer_was_lost_is_not_repeated(account: Account, sync: Sync) -> None:
    """It would be there twice."""
    account.after_writing = [502]
    ended = sync()
    assert ended.code == 1
    assert "Error: Datadog refused (502: lost on its way)" in ended.err
    assert len(account.writes()) == 1
    # The next run finds it by its mark.
    assert counted(sync("--json")) == {"create": ALL - 1, "unchanged": 1}


def test_an_update_is_repeated(account: Account, folder: Path, sync: Sync) -> None:
    sync("--json")
    account.writes()
    change(folder, "monitors/alb-5xx.json", renotify_interval=45)
    account.failures = [("PUT", 502)]
    assert counted(sync("--json"))["update"] == 1
    assert [method for method, _ in account.writes()] == ["PUT", "PUT"]


def test_a_refusal_says_what_is_missing(account: Account, sync: Sync) -> None:
    account.forbidden = True
    ended = sync()
    assert ended.code == 1
    assert "Datadog refused (403: Forbidden for ***): DD_APP_KEY needs the scopes" in ended.err
    assert "monitors_write" in ended.err
    assert account.writes() == []


def test_an_unknown_key_is_told(account: Account, sync: Sync) -> None:
    ended = sync(DD_API_KEY="another")
    assert ended.code == 1
    assert "Datadog knows no such key (401" in ended.err


@pytest.mark.parametrize("name", ["DD_API_KEY", "DD_APP_KEY"])
def test_a_missing_key_is_told(account: Account, name: str, sync: Sync) -> None:
    ended = sync(**{name: None})
    assert ended.code == 1
    assert f"Error: {name} must be set" in ended.err
    assert account.requests == []


def test_a_file_that_the_api_would_refuse_is_found_before_anything_is_sent(
    account: Account, folder: Path, sync: Sync
) -> None:
    change(folder, "monitors/alb-5xx.json", on_missing_data="resolved")
    ended = sync()
    assert ended.code == 1
    assert "monitor alb-5xx: options.on_missing_data: 'resolved' is none of its values" in ended.err
    assert account.requests == []
    checked = okuru("check", "--folder", str(folder), "--json")
    assert checked.code == 1
    assert len(checked.json["problems"]) == 1


def test_a_placeholder_that_nothing_fills(account: Account, folder: Path, sync: Sync) -> None:
    file = folder / "monitors/rds-cpu.json"
    file.write_text(file.read_text().replace("${env}", "${enviroment}"))
    ended = sync()
    assert ended.code == 1
    assert "monitor rds-cpu asks for ${enviroment}, which nothing gives" in ended.err


def test_the_client_of_the_api_is_missing_as_in_production(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'datadog_api_client':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    for command in ("sync", "check"):
        ended = okuru_process(command, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        assert ended.code == 1
        assert "this needs the package datadog-api-client" in ended.err


def test_check_needs_no_account() -> None:
    ended = okuru_process("check", DD_API_KEY=None, DD_APP_KEY=None)
    assert ended.code == 0
    assert ended.out == f"{ALL + EXTENDED} files are as Datadog's API describes them\n"


def test_nobody_is_told_without_notify(account: Account) -> None:
    ended = okuru("sync", "--api-url", account.url)
    assert ended.code == 0
    assert "the monitors tell nobody" in ended.err
