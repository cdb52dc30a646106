"""`okuru datadog` with what it should not be given: by the environment, the files, the API."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from urllib3 import HTTPResponse

from okuru.datadog import access, api
from okuru.datadog.foreign import one_line
from tests.infra.datadog_command import Ended, Sync, okuru, okuru_process
from tests.infra.datadog_command import account as account
from tests.infra.datadog_command import folder as folder
from tests.infra.datadog_command import sync as sync
from tests.infra.datadog_stub import API_KEY, APP_KEY, Account, serving


def one_error(ended: Ended) -> str:
    """It said one line, and nothing that the runner of CI would take for a command."""
    assert ended.code != 0
    (*usage, line) = ended.err.splitlines()
    assert not usage or usage[0].startswith("Usage: "), ended.err
    assert line.startswith("Error: ")
    assert line.isprintable()
    assert "##[" not in line
    return line


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DD_API_KEY", "DD_APP_KEY"])
@pytest.mark.parametrize(
    "key",
    [f"abc\n{API_KEY}", f"{API_KEY} # of prod", f"{API_KEY}\x1b[31m", f"\N{BOM}{API_KEY}", "clé"],
    ids=["line", "words", "control", "bom", "letters"],
)
def test_what_is_no_key_is_told_and_not_quoted(
    account: Account, sync: Sync, name: str, key: str
) -> None:
    said = one_error(sync(**{name: key}))
    assert f"Error: {name} is no key" in said
    assert not any(part in said for part in (*key.split(), API_KEY))
    assert account.requests == []


def test_no_traceback_of_a_process_quotes_a_key(account: Account) -> None:
    """As a reader found it: a key with a line break was quoted by the HTTP library."""
    ended = okuru_process("sync", "--api-url", account.url, DD_API_KEY="abc\nSECRETKEY")
    assert "DD_API_KEY is no key" in one_error(ended)
    assert "SECRET" not in ended.out + ended.err


def test_what_stands_around_a_key_is_no_part_of_it(account: Account, sync: Sync) -> None:
    """A file's last line break, mostly."""
    ended = sync("--dry-run", DD_API_KEY=f"{API_KEY}\n", DD_APP_KEY=f"\t{APP_KEY} \r\n")
    assert ended.code == 0, ended.err
    assert account.requests != []


def test_only_spaces_are_no_key(account: Account, sync: Sync) -> None:
    assert "DD_APP_KEY must be set" in one_error(sync(DD_APP_KEY=" \n"))
    assert account.requests == []


# --- where they go ------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "status"), [("GET", 302), ("GET", 308), ("POST", 307)])
def test_a_redirect_is_not_followed(account: Account, sync: Sync, method: str, status: int) -> None:
    with serving() as elsewhere:
        account.moved[method] = status, elsewhere.url
        said = one_error(sync())
        assert elsewhere.requests == []
    assert f"a redirect ({status}) is not followed" in said
    assert "DD_SITE" in said
    assert [each for each, _ in account.requests].count(method) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://[x",
        "https://",
        "api.datadoghq.eu",
        "ftp://127.0.0.1",
        "http://localhost",
        "http://example.invalid",
        "http://127.0.0.1.example.invalid",
        "http://127.0.0.1@example.invalid",
        r"http://example.invalid\@127.0.0.1",
        "https://user:secret@example.invalid",
        "https://example.invalid?x=1",
        "https://example.invalid\n::error::x",
    ],
)
def test_an_address_that_is_none_or_in_the_clear(url: str) -> None:
    said = one_error(okuru("sync", "--api-url", url))
    assert "--api-url must be https" in said
    assert "secret" not in said
    assert said == one_error(okuru("sync", DD_API_URL=url))


@pytest.mark.parametrize(
    "site",
    [
        "https://datadoghq.eu",
        "datadoghq.eu/",
        "datadoghq.eu/api",
        "api.datadoghq.eu",
        "example.invalid",
        "datadoghq.eu\n::error::x",
    ],
)
def test_a_site_that_is_none(site: str) -> None:
    said = one_error(okuru("sync", DD_SITE=site))
    assert "DD_SITE is no site of Datadog: it is one of ap1.datadoghq.com, " in said
    assert "without https:// and without a path" in said
    assert "::error::" not in said


def test_without_a_site_it_is_the_first_one() -> None:
    """As the Agent and Datadog's own tools have it."""
    keys = {"DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY}
    for site in ({}, {"DD_SITE": " "}):
        assert access.access({**keys, **site}, None).site == "datadoghq.com"
    assert access.access({**keys, "DD_SITE": "datadoghq.eu\n"}, None).site == "datadoghq.eu"


def test_something_that_speaks_no_tls(account: Account) -> None:
    ended = okuru("sync", "--api-url", account.url.replace("http:", "https:"))
    assert "Datadog does not answer (SSLError)" in one_error(ended)


def test_nobody_there_is_told_by_its_reason() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ended = okuru("sync", "--api-url", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "Datadog does not answer (NewConnectionError)" in one_error(ended)


# --- when it answers ----------------------------------------------------------------------------


def test_the_line_that_is_cut_is_asked_again_but_for_a_creation(
    account: Account, sync: Sync
) -> None:
    """What was asked of it may have been done."""
    account.dropped = ["GET", "POST"]
    assert "Datadog does not answer (ProtocolError)" in one_error(sync())
    assert account.dropped == []
    assert len(account.writes()) == 1
    assert sync().code == 0
    assert len(account.slos) == 3


def test_silence_has_an_end(account: Account, sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TIMEOUT", (5, 0.2))
    monkeypatch.setattr(api, "RETRIES", 0)
    monkeypatch.setattr(api, "LONGEST_ANSWER", 1)
    account.rest = 1
    assert "Datadog does not answer (ReadTimeoutError)" in one_error(sync())


def test_an_answer_that_drips_has_an_end(
    account: Account, sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "LONGEST_ANSWER", 0.3)
    account.rest = 0.05
    assert "Datadog does not answer (TooSlow)" in one_error(sync())


def test_a_rest_that_datadog_asks_for_has_an_end() -> None:
    def rest(**headers: str) -> float | None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api.PoliteRetry().get_retry_after(HTTPResponse(headers=named))

    assert rest(X_Ratelimit_Reset="3", Retry_After="7") == 3
    assert rest(Retry_After="7") == 7
    assert rest(Retry_After="86400") == api.LONGEST_REST == 60
    assert rest(Retry_After="Wed, 21 Oct 2026 07:28:00 GMT") is None


def test_a_list_without_end_has_one(
    account: Account, sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MOST_PAGES", 5)
    account.endless = True
    for number in range(api.PAGE):
        account.create("monitor", {"name": f"Theirs {number}", "tags": ["managed-by:okuru"]})
    said = one_error(sync())
    assert "Datadog lists 500 objects and goes on" in said
    assert [path for _, path in account.requests].count("/api/v1/monitor") == 5


@pytest.mark.parametrize("identity", [None, "", {}, [1]])
def test_what_is_made_without_an_id_is_told(account: Account, sync: Sync, identity: Any) -> None:
    nothing = [{"data": []}, [], {"dashboards": []}]
    made = {"data": [{"id": identity}]}
    account.instead = [(200, json.dumps(each).encode()) for each in (*nothing, made)]
    assert "what answers is not Datadog's API" in one_error(sync())
    assert len(account.writes()) == 1


def test_an_id_of_another_form_is_told(account: Account, sync: Sync) -> None:
    """The client's own words for it are a traceback."""
    sync()
    monitor = next(iter(account.monitors.values()))
    monitor.update(id="a text", name="changed")
    assert "what answers is not Datadog's API" in one_error(sync())


# --- what the API says --------------------------------------------------------------------------


def refusal(account: Account, sync: Sync, *said: Any) -> str:
    account.instead = [(400, json.dumps({"errors": list(said)}).encode())]
    return one_error(sync())


def test_what_the_api_says_is_one_printable_line(account: Account, sync: Sync) -> None:
    said = refusal(account, sync, "no\n::error::x\r\n##[error]y", "\x1b[2J\x9b\u202e\u2028z")
    assert said == (r"Error: Datadog refused (400: no ::error::x ## [error]y; \x1b[2J\x9b\u202e z)")


def test_what_the_api_says_is_no_longer_than_a_line(account: Account, sync: Sync) -> None:
    said = refusal(account, sync, "x" * 50_000, "y")
    assert len(said) < 400
    assert said.endswith("x…)")


@pytest.mark.parametrize(
    "echo",
    [
        API_KEY,
        APP_KEY[:20],
        API_KEY[-8:],
        f'{{"key":"{API_KEY[3:12]}…"}}',
        APP_KEY.upper(),
        f"{'x' * 290}{API_KEY}",
    ],
)
def test_no_part_of_a_key_is_said(account: Account, sync: Sync, echo: str) -> None:
    """`keyless` looks at every answer."""
    said = refusal(account, sync, f"the key {echo} is unknown")
    assert "the key *** is unknown" in said


def test_a_short_key_is_not_said_either() -> None:
    assert one_line("abc is none, abcd neither", keys=["abc"]) == "*** is none, *** neither"
    assert one_line("a bc", keys=["abc"]) == "a bc"


@pytest.mark.parametrize("errors", ["a text", {"a": "dict"}, 5, [{"detail": "x"}, None], []])
def test_errors_in_another_form(account: Account, sync: Sync, errors: Any) -> None:
    account.instead = [(400, json.dumps({"errors": errors}).encode())]
    assert "Error: Datadog refused (400" in one_error(sync())


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b"",
        b"null",
        b"[]",
        b'{"data": {}}',
        b'{"data": [5]}',
        b'{"data": [{"name": "no id"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_not_datadogs(account: Account, sync: Sync, body: bytes) -> None:
    account.instead = [(200, body)]
    assert "what answers is not Datadog's API: see DD_SITE" in one_error(sync())


def test_a_refusal_in_no_encoding(account: Account, sync: Sync) -> None:
    account.instead = [(404, b"\xff\xfe")]
    assert "what answers is not Datadog's API" in one_error(sync())


def test_a_mark_that_no_file_can_have_is_not_ours(account: Account, sync: Sync) -> None:
    """Nor does it steer the table."""
    for key in ("[/bold]", "a\n::error::x", "A"):
        account.create("monitor", {"tags": ["managed-by:okuru", f"okuru-key:{key}", "env:prod"]})
    ended = sync("--prune")
    assert ended.code == 0, ended.err
    assert "delete" not in ended.out
    assert "::error::" not in ended.out


def test_a_value_of_someone_elses_does_not_steer_the_terminal(account: Account, sync: Sync) -> None:
    sync("--json")
    monitor = next(iter(account.monitors.values()))
    monitor["name"] = "\x1b[2J\n::error::x [/bold]"
    monitor["tags"] = [*monitor["tags"], 5, None]
    ended = sync("--dry-run")
    assert ended.code == 0, ended.err
    assert r"\x1b[2J ::error::x [/bold]" in ended.out
    assert not any(line.strip().startswith("::") for line in ended.out.splitlines())


# --- files and options --------------------------------------------------------------------------


def test_an_environment_that_there_is_not(account: Account, sync: Sync) -> None:
    said = one_error(sync("--env", "prdo"))
    assert "'prdo' is not one of 'dev', 'prod'" in said
    assert account.requests == []


@pytest.mark.parametrize("part", [".", "slos", "monitors", "dashboard.json"])
def test_a_part_of_the_folder_that_is_not_there(
    account: Account, folder: Path, sync: Sync, part: str
) -> None:
    """With --prune an empty folder would delete what it should hold."""
    sync("--json")
    account.writes()
    (folder / part).rename(folder.parent / "away")
    for ended in (sync("--prune"), okuru("check", "--folder", str(folder))):
        assert str(folder / part) in one_error(ended)
    assert account.requests == []


def test_a_folder_whose_name_breaks_lines(tmp_path: Path) -> None:
    ended = okuru("check", "--folder", str(tmp_path / "x\n::error::y"))
    assert "is not there: run this in a checkout" in one_error(ended)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not valid JSON: "),
        (b'{"name": ', "is not valid JSON: "),
        (b"\xff", "is not valid JSON: it is not UTF-8"),
        (b'{"priority": NaN}', "is not valid JSON: NaN is not a JSON number"),
        (b'{"priority": -Infinity}', "is not valid JSON: -Infinity is not a JSON number"),
        (b'{"name": "a", "name": "b"}', "is not valid JSON: a key stands twice in one object"),
        (b"[]", "is no object of JSON"),
        (b'"monitor"', "is no object of JSON"),
        (b'{"tags": 5}', "its tags are no list"),
        (b'{"tags": null}', "its tags are no list"),
        (b'{"tags": ["a", 5]}', "its tags are no list of texts"),
        (b'{"tags": [{"a": 1}]}', "its tags are no list of texts"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_file_that_is_broken(folder: Path, content: bytes, told: str) -> None:
    (folder / "monitors/rds-cpu.json").write_bytes(content)
    assert told in one_error(okuru("check", "--folder", str(folder)))


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "monitors/rds-cpu.json").unlink()
    (folder / "monitors/rds-cpu.json").symlink_to("nowhere")
    said = one_error(okuru("check", "--folder", str(folder)))
    assert "rds-cpu.json cannot be read: No such file or directory" in said


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_is_no_file_and_is_not_waited_for(
    folder: Path, make: Callable[[Path], None]
) -> None:
    (folder / "monitors/rds-cpu.json").unlink()
    make(folder / "monitors/rds-cpu.json")
    assert "rds-cpu.json is no file" in one_error(okuru("check", "--folder", str(folder)))


def test_a_key_has_one_file_of_a_kind(account: Account, folder: Path, sync: Sync) -> None:
    """The second would be written over the first, at each run."""
    (folder / "monitors/extended/rds-cpu.json").write_bytes(
        (folder / "monitors/rds-cpu.json").read_bytes()
    )
    for ended in (sync(), okuru("check", "--folder", str(folder))):
        assert "rds-cpu.json: in monitors and in monitors/extended" in one_error(ended)
    assert account.requests == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a\ud800b\0", r"name: has the character '\ud800'"),
        ("a\0", r"name: has the character '\x00'"),
        ("a\x1b[2J", r"name: has the character '\x1b'"),
        ("", "name: is empty"),
        (" \n", "name: is empty"),
    ],
)
def test_a_text_that_cannot_be_written_is_a_problem(folder: Path, value: str, told: str) -> None:
    change(folder, name=value)
    ended = okuru("check", "--folder", str(folder))
    assert ended.code == 1
    assert ended.out == f"monitor rds-cpu: {told}\n"


def test_a_query_that_asks_for_nothing_is_a_problem(folder: Path) -> None:
    change(folder, query="")
    ended = okuru("check", "--folder", str(folder))
    assert (ended.code, ended.out) == (1, "monitor rds-cpu: query: is empty\n")


def test_a_number_too_great_to_be_read_is_a_problem(folder: Path) -> None:
    file = folder / "monitors/rds-cpu.json"
    file.write_text(file.read_text().replace('"critical": 80', '"critical": 1e999'))
    ended = okuru("check", "--folder", str(folder))
    assert ended.code == 1
    assert "monitor rds-cpu: options.thresholds.critical: is greater than" in ended.out


@pytest.mark.parametrize("name", ["Rds-cpu", "rds_cpu", "rds cpu", "x\n::error::y"])
def test_a_name_that_datadog_would_write_otherwise(folder: Path, name: str) -> None:
    """Its mark would not be found again: each run would make another."""
    (folder / "monitors/rds-cpu.json").rename(folder / f"monitors/{name}.json")
    said = one_error(okuru("check", "--folder", str(folder)))
    assert "a name has small letters, digits and hyphens only" in said


@pytest.mark.parametrize("wrong", [[], [None], 5, None])
def test_a_value_of_another_type_is_a_problem_and_no_traceback(folder: Path, wrong: Any) -> None:
    file = folder / "monitors/rds-cpu.json"
    body = json.loads(file.read_text())
    for name in ("options", "type", "query"):
        file.write_text(json.dumps({**body, name: wrong}))
        ended = okuru("check", "--folder", str(folder))
        assert ended.code == 1
        (problem,) = ended.out.splitlines()
        assert problem.startswith("monitor rds-cpu: ")
        assert "UnparsedObject()" not in problem  # what the client says to itself


def change(folder: Path, **parts: Any) -> None:
    file = folder / "monitors/rds-cpu.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
