"""Datadog's API as the sync needs it: what is ours there, and how it is written.

Bodies go out as models of `datadog-api-client`, so that a mistake is found before anything is
sent. Answers are taken as plain JSON: other people's objects may hold what this version of the
client does not know.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from okuru.datadog.files import KEY, MANAGED, Definition, Kind
from okuru.datadog.models import model_of

PAGE = 100
#: Seconds to connect, and to wait for an answer.
TIMEOUT = (5, 30)
RETRIES = 4
LONGEST_REST = 60
SCOPES = (
    "dashboards_read, dashboards_write, monitors_read, monitors_write, slos_read and slos_write"
)

_MARK = re.compile(re.escape(KEY) + r"([a-z0-9-]+)")


@dataclass(frozen=True)
class Found:
    """An object in Datadog that bears our mark."""

    kind: Kind
    key: str
    id: Any
    body: dict[str, Any]


class PoliteRetry(Retry):
    """Waits as Datadog asks. A POST is repeated only if it was surely not carried out."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "total": RETRIES,
            "backoff_factor": 0.5,
            "backoff_max": LONGEST_REST,
            "allowed_methods": frozenset({"GET", "PUT", "DELETE"}),
            "raise_on_status": False,
        }
        super().__init__(**{**defaults, **options})

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        again = status_code == 429 or (status_code >= 500 and method != "POST")
        return bool(self.total) and again

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        asked = response.headers.get("X-Ratelimit-Reset") or response.headers.get("Retry-After")
        return min(float(asked), LONGEST_REST) if asked and asked.isdecimal() else None


class Datadog:
    """The objects of one environment in one account."""

    def __init__(self, environ: Mapping[str, str], *, api_url: str | None, env: str) -> None:
        from datadog_api_client import ApiClient
        from datadog_api_client.v1.api.dashboards_api import DashboardsApi
        from datadog_api_client.v1.api.monitors_api import MonitorsApi
        from datadog_api_client.v1.api.service_level_objectives_api import (
            ServiceLevelObjectivesApi,
        )

        client = ApiClient(_configuration(environ, api_url))
        self._env = env
        self._dashboards = DashboardsApi(client)
        self._monitors = MonitorsApi(client)
        self._slos = ServiceLevelObjectivesApi(client)

    def ours(self) -> list[Found]:
        """Everything of this environment that bears our mark. Nothing else is ever touched."""
        return [*self._our_slos(), *self._our_monitors(), *self._our_dashboards()]

    def _our_slos(self) -> Iterator[Found]:
        for each in _pages(
            lambda page: _json(
                self._slos.list_slos(tags_query=MANAGED, limit=PAGE, offset=page * PAGE)
            )["data"]
        ):
            if key := self._key(each.get("tags") or []):
                yield Found("slo", key, each["id"], each)

    def _our_monitors(self) -> Iterator[Found]:
        for each in _pages(
            lambda page: _json(
                self._monitors.list_monitors(monitor_tags=MANAGED, page=page, page_size=PAGE)
            )
        ):
            if key := self._key(each.get("tags") or []):
                yield Found("monitor", key, each["id"], each)

    def _key(self, tags: list[str]) -> str | None:
        if MANAGED not in tags or f"env:{self._env}" not in tags:
            return None
        return next((tag.removeprefix(KEY) for tag in tags if tag.startswith(KEY)), None)

    def _our_dashboards(self) -> Iterator[Found]:
        """A list of dashboards has their descriptions only; ours is asked for whole."""
        for each in _pages(
            lambda page: _json(self._dashboards.list_dashboards(count=PAGE, start=page * PAGE))[
                "dashboards"
            ]
        ):
            description = each.get("description") or ""
            if MANAGED in description and (mark := _MARK.search(description)):
                body = _json(self._dashboards.get_dashboard(each["id"]))
                yield Found("dashboard", mark[1], each["id"], body)

    def create(self, definition: Definition) -> Any:
        """Make it; answers its id."""
        body = model_of(definition)
        if definition.kind == "slo":
            return _json(self._slos.create_slo(body))["data"][0]["id"]
        if definition.kind == "monitor":
            return _json(self._monitors.create_monitor(body))["id"]
        return _json(self._dashboards.create_dashboard(body))["id"]

    def update(self, found: Found, definition: Definition) -> None:
        """Give the object that was found what the definition says."""
        answer: Any
        # An update's body is of the same form, but the client has a class of its own for it.
        body: Any = definition.body
        if found.kind == "slo":
            answer = self._slos.update_slo(found.id, body)
        elif found.kind == "monitor":
            answer = self._monitors.update_monitor(found.id, body)
        else:
            answer = self._dashboards.update_dashboard(found.id, body)
        _json(answer)

    def delete(self, found: Found) -> None:
        """Delete one that bears our mark."""
        answer: Any
        if found.kind == "slo":
            answer = self._slos.delete_slo(found.id)
        elif found.kind == "monitor":
            answer = self._monitors.delete_monitor(found.id)
        else:
            answer = self._dashboards.delete_dashboard(found.id)
        _json(answer)


def _configuration(environ: Mapping[str, str], api_url: str | None) -> Any:
    from datadog_api_client import Configuration

    missing = [name for name in ("DD_API_KEY", "DD_APP_KEY") if not environ.get(name)]
    if missing:
        raise click.ClickException(
            f"{' and '.join(missing)} must be set: an API key and an application key of the"
            f" account, the latter with the scopes {SCOPES}"
        )
    options: dict[str, Any] = {}
    if api_url:
        parts = urlsplit(api_url)
        if parts.scheme != "https" and parts.hostname != "127.0.0.1":
            raise click.ClickException("--api-url must be https: the keys are sent there")
        options["host"] = api_url.rstrip("/")
    try:
        configuration = Configuration(
            **options,
            preload_content=True,
            request_timeout=TIMEOUT,
            retry_policy=PoliteRetry(),
            is_iac=True,
        )
        if not api_url:
            configuration.server_variables["site"] = environ.get("DD_SITE") or "datadoghq.com"
            _ = configuration.host  # it refuses a site that there is not
    except ValueError as error:
        raise click.ClickException(f"DD_SITE is no site of Datadog: {error}") from error
    # Its own reading of these variables knows names of the environment that we do not promise.
    configuration.api_key = {
        "apiKeyAuth": environ["DD_API_KEY"],
        "appKeyAuth": environ["DD_APP_KEY"],
    }
    # After its constructor, which would give other defaults: the answers as they came.
    configuration.preload_content = False
    return configuration


def _json(answer: Any) -> Any:
    """The JSON of an answer that the client, told so, has not turned into models.

    One that nobody reads would keep its connection from the next request.
    """
    return json.loads(answer.data)


def _pages(page: Callable[[int], list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    number = 0
    while items := page(number):
        yield from items
        if len(items) < PAGE:
            return
        number += 1


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the API refuses into one line that says what to do, and exit code 1."""
    from datadog_api_client.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        said = _said(error)
        if error.status == 401:
            raise click.ClickException(
                f"Datadog knows no such key (401{said}): see DD_API_KEY and DD_SITE"
            ) from error
        if error.status == 403:
            raise click.ClickException(
                f"Datadog refused (403{said}): DD_APP_KEY needs the scopes {SCOPES}, and both keys"
                " must be of the account at DD_SITE"
            ) from error
        if error.status == 429:
            raise click.ClickException(
                f"Datadog's rate limit (429) lasts longer than {RETRIES} attempts: run it again in"
                " some minutes; what is done stays done"
            ) from error
        raise click.ClickException(f"Datadog refused ({error.status}{said})") from error
    except HTTPError as error:
        raise click.ClickException(
            f"Datadog does not answer ({type(error).__name__}): see DD_SITE and the network, then"
            " run it again; what is done stays done"
        ) from error


def _said(error: Any) -> str:
    """Datadog's own words, without anything that may be a key."""
    said = error.body.get("errors") if isinstance(error.body, dict) else None
    if not said:
        return ""
    words = "; ".join(str(each) for each in said)
    for name in ("DD_API_KEY", "DD_APP_KEY"):
        if key := os.environ.get(name):
            words = words.replace(key, "***")
    return f": {words}"
