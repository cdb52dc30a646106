"""`okuru datadog sync` as a process, against an account on a real socket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from okuru.datadog.files import FOLDER
from tests.infra.datadog_stub import API_KEY, APP_KEY, Account, serving

ROOT = Path(__file__).parents[2]
DEFAULT, EXTENDED, OBJECTIVES, DASHBOARDS = 8, 6, 3, 1
ALL = DEFAULT + OBJECTIVES + DASHBOARDS


@pytest.fixture
def account() -> Iterator[Account]:
    with serving() as account:
        yield account


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files, to be changed."""
    return Path(shutil.copytree(FOLDER, tmp_path / "datadog"))


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def okuru(*arguments: str, **environ: str | None) -> Ended:
    """The command as a process of its own; its output never has a key."""
    wanted = {"DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY, **environ}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DD_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT)}
    environment |= {name: value for name, value in wanted.items() if value is not None}
    command = [sys.executable, "-c", "from okuru.cli import main; main()", "datadog", *arguments]
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=90, check=False
    )
    for key in (API_KEY, APP_KEY):
        assert key not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def sync(account: Account, *arguments: str, **environ: str | None) -> Ended:
    given = ("--api-url", account.url, "--notify", "@slack-okuru", *arguments)
    return okuru("sync", *given, **environ)


def counted(ended: Ended) -> Counter[str]:
    assert ended.code == 0, ended.err
    return Counter(item["action"] for item in ended.json["items"])


def change(folder: Path, path: str, **options: Any) -> None:
    file = folder / path
    body = json.loads(file.read_text())
    body["options"].update(options)
    file.write_text(json.dumps(body))


def test_the_first_run_makes_everything_and_the_second_writes_nothing(account: Account) -> None:
    assert counted(sync(account, "--json")) == {"create": ALL}
    assert len(account.writes()) == ALL
    assert (len(account.slos), len(account.monitors), len(account.dashboards)) == (3, 8, 1)

    assert counted(sync(account, "--json")) == {"unchanged": ALL}
    assert account.writes() == []


def test_what_is_made_is_filled_in(account: Account) -> None:
    sync(account, "--extended-alerts", "--env", "dev", "--docs-url", "https://example.com/main")
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


def test_one_threshold_is_one_update(account: Account, folder: Path) -> None:
    sync(account, "--json")
    account.writes()
    (identity,) = [
        name for name, each in account.monitors.items() if "okuru-key:rds-cpu" in each["tags"]
    ]
    change(folder, "monitors/rds-cpu.json", thresholds={"critical": 90, "warning": 65})
    file = folder / "monitors/rds-cpu.json"
    file.write_text(file.read_text().replace("> 80", "> 90"))

    ended = sync(account, "--folder", str(folder), "--json")
    assert counted(ended) == {"update": 1, "unchanged": ALL - 1}
    assert account.writes() == [("PUT", f"/api/v1/monitor/{identity}")]
    (step,) = [item for item in ended.json["items"] if item["action"] == "update"]
    assert step["key"] == "rds-cpu"
    query, critical = step["changes"]
    assert query["path"] == "query"
    assert query["shall_be"] == query["is_now"].replace("> 80", "> 90")
    assert critical == {"path": "options.thresholds.critical", "is_now": 80, "shall_be": 90}
    assert account.monitors[identity]["options"]["thresholds"]["critical"] == 90
    assert counted(sync(account, "--folder", str(folder), "--json")) == {"unchanged": ALL}


def test_what_someone_changed_by_hand_is_changed_back(account: Account) -> None:
    sync(account, "--json")
    (dashboard,) = account.dashboards.values()
    dashboard["widgets"][1]["definition"]["title"] = "mine"
    (objective, *_) = account.slos.values()
    objective["tags"].remove("service:okuru")
    ended = sync(account, "--json")
    assert counted(ended) == {"update": 2, "unchanged": ALL - 2}
    paths = [each["path"] for item in ended.json["items"] for each in item["changes"]]
    assert paths == ["tags", "widgets[1].definition.title"]


def test_a_dry_run_writes_nothing(account: Account, folder: Path) -> None:
    ended = sync(account, "--dry-run", "--extended-alerts", "--json")
    assert counted(ended) == {"create": ALL + EXTENDED}
    assert account.writes() == []

    sync(account, "--json")
    before = account.everything()
    account.writes()
    change(folder, "monitors/alb-5xx.json", renotify_interval=45)
    ended = sync(account, "--dry-run", "--folder", str(folder))
    assert ended.code == 0
    assert "options.renotify_interval" in ended.out
    assert f"prod: {ALL - 1} unchanged, 1 update. Nothing was written: a dry run" in ended.out
    assert account.writes() == []
    assert account.everything() == before


def test_what_is_not_ours_is_never_touched(account: Account) -> None:
    """Others' objects, also those that look like ours, and more of them than a page has."""
    for number in range(150):
        account.create("monitor", {"name": f"Theirs {number}", "tags": ["managed-by:okuru"]})
        account.create("slo", {"name": f"Theirs {number}", "tags": ["managed-by:okuru"]})
        account.create("dashboard", {"title": "Okuru", "description": None, "widgets": []})
    # Another environment's, and one of the same name that somebody made by hand.
    account.create("monitor", {"tags": ["managed-by:okuru", "okuru-key:rds-cpu", "env:dev"]})
    account.create("monitor", {"name": "Okuru prod: the database's CPU is busy", "tags": []})
    theirs = {kind: dict(account.store(kind)) for kind in ("slo", "monitor", "dashboard")}

    assert counted(sync(account, "--json")) == {"create": ALL}
    # Ours stand on the second page now.
    account.writes()
    assert counted(sync(account, "--prune", "--json")) == {"unchanged": ALL}
    assert account.writes() == []
    for kind, objects in theirs.items():
        assert objects.items() <= account.store(kind).items()


def test_two_environments_stand_beside_each_other(account: Account) -> None:
    sync(account, "--env", "prod", "--json")
    ended = sync(account, "--env", "dev", "--json")
    assert counted(ended) == {"create": DEFAULT + OBJECTIVES, "unchanged": DASHBOARDS}
    assert counted(sync(account, "--env", "prod", "--json")) == {"unchanged": ALL}


def test_what_has_no_file_is_told_and_deleted_only_if_asked(account: Account) -> None:
    sync(account, "--extended-alerts", "--json")
    account.writes()

    ended = sync(account)
    assert f"{EXTENDED} extra" in ended.out
    assert "--prune" in ended.err
    assert account.writes() == []

    assert counted(sync(account, "--prune", "--dry-run", "--json"))["delete"] == EXTENDED
    assert account.writes() == []

    assert counted(sync(account, "--prune", "--json"))["delete"] == EXTENDED
    assert [method for method, _ in account.writes()] == ["DELETE"] * EXTENDED
    assert len(account.monitors) == DEFAULT


def test_a_second_one_with_the_same_mark_is_extra(account: Account) -> None:
    sync(account, "--json")
    twin = next(each for each in account.monitors.values() if "okuru-key:rds-cpu" in each["tags"])
    account.create("monitor", {key: value for key, value in twin.items() if key != "id"})
    assert counted(sync(account, "--json")) == {"unchanged": ALL, "extra": 1}


# --- what goes wrong ----------------------------------------------------------------------------


def test_it_waits_when_datadog_asks_it_to(account: Account) -> None:
    account.failures = [("GET", 429), ("GET", 503), ("POST", 429)]
    assert counted(sync(account, "--json")) == {"create": ALL}
    assert account.failures == []
    assert len(account.writes()) == ALL + 1  # one was refused and sent again


def test_a_creation_whose_answer_was_lost_is_not_repeated(account: Account) -> None:
    """It would be there twice."""
    account.after_writing = [502]
    ended = sync(account)
    assert ended.code == 1
    assert "Error: Datadog refused (502: lost on its way)" in ended.err
    assert len(account.writes()) == 1
    # The next run finds it by its mark.
    assert counted(sync(account, "--json")) == {"create": ALL - 1, "unchanged": 1}


def test_an_update_is_repeated(account: Account, folder: Path) -> None:
    sync(account, "--json")
    account.writes()
    change(folder, "monitors/alb-5xx.json", renotify_interval=45)
    account.failures = [("PUT", 502)]
    assert counted(sync(account, "--folder", str(folder), "--json"))["update"] == 1
    assert [method for method, _ in account.writes()] == ["PUT", "PUT"]


def test_a_refusal_says_what_is_missing(account: Account) -> None:
    account.forbidden = True
    ended = sync(account)
    assert ended.code == 1
    assert "Datadog refused (403: Forbidden for ***): DD_APP_KEY needs the scopes" in ended.err
    assert "monitors_write" in ended.err
    assert account.writes() == []


def test_an_unknown_key_is_told(account: Account) -> None:
    ended = sync(account, DD_API_KEY="another")
    assert ended.code == 1
    assert "Datadog knows no such key (401" in ended.err


@pytest.mark.parametrize("name", ["DD_API_KEY", "DD_APP_KEY"])
def test_a_missing_key_is_told(account: Account, name: str) -> None:
    ended = sync(account, **{name: None})
    assert ended.code == 1
    assert f"Error: {name} must be set" in ended.err
    assert account.requests == []


def test_nobody_there() -> None:
    ended = okuru("sync", "--api-url", "http://127.0.0.1:9")
    assert ended.code == 1
    assert "Datadog does not answer" in ended.err


def test_the_keys_go_nowhere_in_the_clear() -> None:
    ended = okuru("sync", "--api-url", "http://example.com")
    assert ended.code == 1
    assert "--api-url must be https" in ended.err


def test_a_site_that_there_is_not() -> None:
    ended = okuru("sync", DD_SITE="example.com")
    assert ended.code == 1
    assert "DD_SITE is no site of Datadog" in ended.err


def test_a_file_that_the_api_would_refuse_is_found_before_anything_is_sent(
    account: Account, folder: Path
) -> None:
    change(folder, "monitors/alb-5xx.json", on_missing_data="resolved")
    ended = sync(account, "--folder", str(folder))
    assert ended.code == 1
    assert "monitor alb-5xx: options.on_missing_data: 'resolved' is none of its values" in ended.err
    assert account.requests == []
    checked = okuru("check", "--folder", str(folder), "--json")
    assert checked.code == 1
    assert len(checked.json["problems"]) == 1


def test_a_placeholder_that_nothing_fills(account: Account, folder: Path) -> None:
    file = folder / "monitors/rds-cpu.json"
    file.write_text(file.read_text().replace("${env}", "${enviroment}"))
    ended = sync(account, "--folder", str(folder))
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
        ended = okuru(command, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        assert ended.code == 1
        assert "this needs the package datadog-api-client" in ended.err


def test_check_needs_no_account() -> None:
    ended = okuru("check", DD_API_KEY=None, DD_APP_KEY=None)
    assert ended.code == 0
    assert ended.out == f"{ALL + EXTENDED} files are as Datadog's API describes them\n"


def test_nobody_is_told_without_notify(account: Account) -> None:
    ended = okuru("sync", "--api-url", account.url)
    assert ended.code == 0
    assert "the monitors tell nobody" in ended.err
