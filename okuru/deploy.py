"""`okuru deploy` and `okuru rollback`: another image, or the one before, for every service in ECS.

Both need the Procfile beside them and credentials of AWS; neither needs the service's environment.
"""

from __future__ import annotations

import json
import math
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import requests
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

from okuru import procfile
from okuru.deployment import Deployment
from okuru.ecs import Cluster, DeployError, Service
from okuru.revisions import short
from tasks.engine.catalogue import Catalogue

#: What pushing an image answers; a tag may mean another image tomorrow.
BY_DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
#: What Docker takes for a tag.
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
#: Told to stop by Ctrl-C; by a workflow that is cancelled.
STOPS = (signal.SIGINT, signal.SIGTERM)


class _Seconds(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


environment_option = click.option(
    "--environment", "-e", required=True, metavar="NAME", help="dev, prod: the cluster okuru-NAME."
)
timeout_option = click.option(
    "--timeout",
    type=_Seconds(0),
    default=2400,
    show_default=True,
    help="Seconds for the whole way, and as many for the way back. The workers of jobs alone may "
    "take 26 minutes.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="The result on stdout; progress goes to stderr."
)


@click.command()
@environment_option
@click.option("--image", required=True, metavar="NAME@sha256:…", help="By digest.")
@click.option("--version", required=True, help="What traces and metrics call it: its tag.")
@click.option("--url", metavar="URL", help="The API's address, to be asked at the end.")
@click.option(
    "--accept-shape",
    "accepted",
    multiple=True,
    envvar="ACCEPT_SHAPE",
    metavar="FAMILY:N",
    help="This revision's other roles or containers are meant. May be repeated.",
)
@timeout_option
@dry_run_option
@json_option
def deploy(
    environment: str,
    image: str,
    version: str,
    url: str | None,
    accepted: tuple[str, ...],
    timeout: float,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Migrate the database, then bring IMAGE to every service of the Procfile.

    Workers change before the processes that stage tasks for them, so that nobody gets a task that
    it does not know. If anything fails, or the command is told to stop, every service that was
    touched goes back to what it ran; the schema stays: old code works on it (docs/architecture.md).

    The template of each service is its family's newest revision. One with other roles or other
    containers than what runs is refused, unless it is named with --accept-shape.
    """
    if not BY_DIGEST.fullmatch(image):
        raise click.UsageError("--image names an image by its digest: …@sha256:<64 hex digits>")
    if not TAG.fullmatch(version):
        raise click.UsageError("--version is a tag: letters, digits, `_`, `.` and `-`")
    with _explained():
        cluster = Cluster(environment, processes())
        work = Deployment(cluster, image, version, timeout=timeout, say=_say)
        work.plan()
        refused = work.unaccepted(accepted)
        if dry_run:
            order = ", then to ".join(map(" ".join, waves()))
            _say("\n".join([*refused, f"would migrate, and bring {image} to {order}"]))
            _finish(work.result("dry-run"), as_json=as_json)
            return
        if refused:
            _finish(work.result("refused"), as_json=as_json)
            raise DeployError("\n".join(refused))
        with _interruptible():
            try:
                work.register()
                work.migrate()
                for wave in waves():
                    work.replace(wave)
                if url:
                    smoke(url)
            except (Exception, KeyboardInterrupt) as error:
                _ignore(STOPS)  # from here on it goes back, whoever is in a hurry
                _say(f"failed: {_reason(error)}")
                try:
                    back = work.go_back()
                except (DeployError, BotoCoreError, ClientError) as second:
                    _finish(work.result("failed"), as_json=as_json)
                    raise DeployError(
                        f"the deploy failed ({_reason(error)}), and so did going back: "
                        f"{_reason(second)}. `okuru rollback` tries again"
                    ) from error
                _finish(work.result("rolled-back" if back else "refused"), as_json=as_json)
                raise DeployError(
                    f"{_reason(error)}. "
                    + (
                        f"Back at what ran before: {', '.join(back)}"
                        if back
                        else "No service has changed"
                    )
                ) from error
        _finish(work.result("deployed"), as_json=as_json)
        work.register_operator()


@click.command()
@environment_option
@click.option(
    "--service", "only", metavar="PROCESS", help="One process of the Procfile; by default all."
)
@click.option(
    "--revision", type=click.IntRange(1), metavar="N", help="With --service: that revision."
)
@timeout_option
@dry_run_option
@json_option
def rollback(
    environment: str,
    only: str | None,
    revision: int | None,
    timeout: float,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Go back to what ran before the last deploy: every service, or one.

    Each revision remembers its deploy and the one before it: services that the last deploy did not
    reach, or that are back already, stay where they are, and a second rollback takes back the
    deploy before that. Works while a deploy is under way, which then gives up. The schema stays as
    it is.
    """
    if revision and not only:
        raise click.UsageError("--revision is that of one service: name it with --service")
    if only and only not in processes():
        raise click.UsageError(f"no process {only}: {', '.join(processes())}")
    with _explained():
        cluster = Cluster(environment, processes())
        now = cluster.services()
        back = (
            {only: _before(cluster, now[only], revision)}
            if only
            else _before_the_last_deploy(cluster, now)
        )
        result: dict[str, Any] = {
            "environment": environment,
            "services": {
                name: {"from": short(now[name].revision), "to": short(there)}
                for name, there in back.items()
            },
        }
        for name, each in result["services"].items():
            _say(f"{name}: {each['from']} → {each['to']}")
        if not dry_run:
            cluster.go_to(back, deadline=time.monotonic() + timeout, say=_say)
        result["outcome"] = "dry-run" if dry_run else "rolled-back"
        _finish(result, as_json=as_json)


def processes() -> list[str]:
    """The processes of the Procfile, each of which is a service."""
    return list(procfile.read())


def waves() -> list[list[str]]:
    """The processes that consume queues, and then all others."""
    groups = {queue.group for queue in Catalogue.load("")}
    consumers = [name for name in processes() if name in groups]
    return [consumers, [name for name in processes() if name not in groups]]


def smoke(url: str, *, patience: float = 60, every: float = 3) -> None:
    """Ask the API what a client would. Raises DeployError if it does not answer well in time."""
    deadline = time.monotonic() + patience
    while (wrong := _wrong_with(url.rstrip("/"))) is not None:
        if time.monotonic() > deadline:
            raise DeployError(f"the API does not answer as it should: {wrong}")
        time.sleep(every)
    _say(f"{url} is healthy and ready, and serves its OpenAPI document")


def _wrong_with(url: str) -> str | None:
    try:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            answer = requests.get(url + path, timeout=10, allow_redirects=False)
            if answer.status_code != requests.codes.ok:
                return f"{path} answered {answer.status_code}"
        document = answer.json()
    except requests.RequestException as error:  # an answer that is no JSON, too
        return str(error)
    is_one = isinstance(document, dict) and "openapi" in document and "paths" in document
    return None if is_one else "/openapi.json is no OpenAPI document"


def _before_the_last_deploy(cluster: Cluster, now: dict[str, Service]) -> dict[str, str]:
    """Where the services go that run what the last deploy has registered."""
    running = {name: cluster.revision(service.revision) for name, service in now.items()}
    deploys = {name: revision.deploy for name, revision in running.items() if revision.deploy}
    if not deploys:
        raise DeployError(
            "no deploy has registered what runs. Name a revision of each service: "
            "--service PROCESS --revision N"
        )
    last = max(deploys.values())
    # Those who stage tasks go back before those who run them: the reverse of a deploy.
    order = [name for wave in reversed(waves()) for name in wave]
    for name in order:
        if deploys.get(name) != last:
            _say(f"{name} stays at {running[name]}: it is not of the last deploy")
    return {name: _before(cluster, now[name], None) for name in order if deploys.get(name) == last}


def _before(cluster: Cluster, service: Service, revision: int | None) -> str:
    if revision:
        return f"{service.revision.rpartition(':')[0]}:{revision}"
    before = cluster.revision(service.revision).previous
    if before is None:
        raise DeployError(
            f"{short(service.revision)} does not say what ran before it: no deploy registered it. "
            f"Name the revision: --service {service.process} --revision N"
        )
    return before


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, and TERM, which a cancelled workflow gets: heard once, so that the way back is gone.

    The way back is a call a service; ECS walks it by itself, should this process be killed then.
    """

    def stop(_number: int, _frame: object) -> None:
        _ignore(STOPS)
        raise KeyboardInterrupt

    old = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _ignore(signals: Iterable[signal.Signals]) -> None:
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (NoRegionError, NoCredentialsError, ProfileNotFound) as error:
        told = (
            f"{str(error).removesuffix('.')}: AWS_DEFAULT_REGION and AWS_PROFILE say where, as whom"
        )
        raise DeployError(told) from error
    except (BotoCoreError, ClientError) as error:
        raise DeployError(f"AWS did not answer, or refused: {error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "told to stop"
    return error.message if isinstance(error, DeployError) else str(error)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _finish(result: dict[str, Any], *, as_json: bool) -> None:
    _say(result["outcome"])
    if as_json:
        click.echo(json.dumps(result))
