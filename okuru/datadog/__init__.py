"""`okuru datadog`: the dashboard, the monitors and the objectives of `terraform/datadog`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from okuru.datadog.files import FOLDER, Definition, Unusable, keys, load
from okuru.datadog.foreign import one_line
from okuru.tables import console

#: As terraform/variables.tf has them.
ENVIRONMENTS = ("dev", "prod")
#: Characters of a value that the table of differences shows.
MAX_VALUE = 60
#: And of what is said of a file, whose path may be long.
MAX_REASON = 1000


@click.group()
def datadog() -> None:
    """Compare and write the dashboard, monitors and objectives of terraform/datadog."""


_folder = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    help="Where the files are; terraform/datadog of this checkout by default.",
)
_json = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@datadog.command()
@_folder
@_json
def check(*, folder: Path, as_json: bool) -> None:
    """Hold every file against the models of Datadog's API client; needs no account.

    Exit code 1 if the API would refuse or ignore a part of one.
    """
    with _readable():
        definitions = load(folder, env="check", notify="", docs="", extended=True)
        found = _problems(definitions)
    if as_json:
        click.echo(json.dumps({"problems": found}))
    else:
        for each in found:
            click.echo(each)
        if not found:
            click.echo(f"{len(definitions)} files are as Datadog's API describes them")
    if found:
        raise SystemExit(1)


@datadog.command()
@click.option(
    "--env",
    type=click.Choice(ENVIRONMENTS),
    default="prod",
    show_default=True,
    help="The environment watched.",
)
@click.option(
    "--notify",
    help="Whom the monitors tell, such as @slack-okuru; '' takes away whom they tell now.",
)
@click.option(
    "--docs-url",
    envvar="OKURU_DOCS_URL",
    default="",
    help="What the links to docs/runbook.md begin with, such as https://…/blob/main.",
)
@click.option("--extended-alerts", is_flag=True, help="Also the monitors of monitors/extended.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option(
    "--prune",
    is_flag=True,
    help="Delete what bears our mark and has no file, and of twins all but the oldest.",
)
@click.option("--api-url", envvar="DD_API_URL", help="Instead of that of DD_SITE.")
@_folder
@_json
def sync(
    *,
    env: str,
    notify: str | None,
    docs_url: str,
    extended_alerts: bool,
    dry_run: bool,
    prune: bool,
    api_url: str | None,
    folder: Path,
    as_json: bool,
) -> None:
    """Make Datadog's objects what the files say. A second run writes nothing.

    Ours are known by the tags managed-by:okuru, okuru-key and env, the dashboard by the same words
    in its description; no other object is touched. One without a file is told, and deleted only
    with --prune. One whose file is not asked for, an extended one without --extended-alerts, is
    left alone. The keys come from DD_API_KEY and DD_APP_KEY, the account's site from DD_SITE.

    Exit code 1 if an object is there twice, as after two runs at once.
    """
    docs = f"{docs_url.rstrip('/')}/" if docs_url else ""
    with _readable():
        definitions = load(
            folder, env=env, notify=notify or "", docs=docs, extended=extended_alerts
        )
        if found := _problems(definitions):
            raise click.ClickException("; ".join(found))
        steps = _synchronise(
            definitions,
            env,
            api_url,
            files=keys(folder),
            drop=notify is not None,
            dry_run=dry_run,
            prune=prune,
        )
    counts = Counter(step["action"] for step in steps)
    if as_json:
        click.echo(json.dumps({"env": env, "dry_run": dry_run, "counts": counts, "items": steps}))
    else:
        _say(steps, counts, env, dry_run=dry_run, notify=notify)
    if twins := [f"{step['kind']} {step['key']}" for step in steps if step["action"] == "twin"]:
        raise click.ClickException(
            f"there twice: {', '.join(dict.fromkeys(twins))}. `okuru datadog sync --prune` takes"
            " the younger away"
        )


def _say(
    steps: list[dict[str, Any]],
    counts: Counter[str],
    env: str,
    *,
    dry_run: bool,
    notify: str | None,
) -> None:
    _show(steps)
    said = ", ".join(f"{number} {action}" for action, number in sorted(counts.items()))
    click.echo(f"{env}: {said}" + (". Nothing was written: a dry run" if dry_run else ""))
    if counts["extra"]:
        click.echo("extra: ours by their mark, but without a file; --prune deletes them", err=True)
    if counts["skipped"]:
        click.echo("skipped: not compared, as --extended-alerts was not given", err=True)
    if not notify:
        click.echo("without --notify the monitors tell nobody", err=True)


def _synchronise(
    definitions: list[Definition], env: str, api_url: str | None, **options: Any
) -> list[dict[str, Any]]:
    from okuru.datadog.access import access
    from okuru.datadog.api import Datadog, explained
    from okuru.datadog.sync import synchronise

    account = access(os.environ, api_url)
    with explained(account):
        there = Datadog(account, env=env)
        done = synchronise(there, definitions, **options)
        return [step.as_dict() for step in done]


def _problems(definitions: list[Definition]) -> list[str]:
    from okuru.datadog.models import problems

    return [
        f"{each.kind} {each.key}: {one_line(problem)}"
        for each in definitions
        for problem in problems(each)
    ]


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except Unusable as error:
        raise click.ClickException(one_line(str(error), most=MAX_REASON)) from error
    except RecursionError as error:
        raise click.ClickException("a file is nested too deep") from error
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "datadog_api_client":
            raise
        # The image of production is without it, as without all of requirements/dev.txt.
        raise click.ClickException(
            "this needs the package datadog-api-client: run it in a checkout, after make setup"
        ) from error


def _show(steps: list[dict[str, Any]]) -> None:

    table = Table("object", "key", "action", "field", "is", "shall be")
    for step in steps:
        changes = step["changes"] or [None]
        for index, change in enumerate(changes):
            table.add_row(
                *([step["kind"], step["key"], step["action"]] if index == 0 else ["", "", ""]),
                *([Text(change["path"]), _short(change["is_now"]), _short(change["shall_be"])]
                  if change else ["", "", ""]),
            )  # fmt: skip
    console().print(table)


def _short(value: Any) -> Text:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Text(one_line(shown, most=MAX_VALUE))
