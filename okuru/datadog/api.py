"""Datadog's API as the sync needs it: what is ours there, and how it is written.

Bodies go out as models of `datadog-api-client`, so that a mistake is found before anything is
sent. Answers are taken as plain JSON: other people's objects may hold what this version of the
client does not know.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from okuru.datadog.access import SCOPES, Access
from okuru.datadog.files import KEY, MANAGED, NAME, Definition, Kind
from okuru.datadog.foreign import one_line
from okuru.datadog.models import model_of

PAGE = 100
#: Seconds to connect, and to wait for an answer.
TIMEOUT = (5, 30)
#: And for the whole of it: TIMEOUT begins anew with every byte.
LONGEST_ANSWER = 120
#: Of one list, so that one which never ends is not read for ever.
MOST_PAGES = 100
RETRIES = 4
LONGEST_REST = 60

_MARK = re.compile(rf"{KEY}({NAME})")


@dataclass(frozen=True)
class Found:
    """An object in Datadog that bears our mark."""

    kind: Kind
    key: str
    id: Any
    body: dict[str, Any]

    @property
    def age(self) -> tuple[str, ...]:
        """Sorts the oldest first: when it was made and, within a second, its id."""
        made = self.body.get("created_at") or self.body.get("created")
        return tuple(f"{e:020}" if isinstance(e, int) else str(e) for e in (made, self.id))


class Unexpected(Exception):
    """An answer that is not of the form of Datadog's."""


class TooSlow(HTTPError):
    """An answer that has begun and does not end."""


class PoliteRetry(Retry):
    """Waits as Datadog asks. A POST is repeated only if it was surely not carried out.

    Where there was no answer urllib3 sees to that by itself, where there was one `is_retry` does.
    A redirect is not followed: our keys stand in headers that urllib3 would send on to whatever
    host it names, also in the clear.
    """

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "total": RETRIES,
            "backoff_factor": 0.5,
            "backoff_max": LONGEST_REST,
            "raise_on_status": False,
            "redirect": 0,
            "raise_on_redirect": False,
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

    def __init__(self, access: Access, *, env: str) -> None:
        from datadog_api_client import ApiClient
        from datadog_api_client.v1.api.dashboards_api import DashboardsApi
        from datadog_api_client.v1.api.monitors_api import MonitorsApi
        from datadog_api_client.v1.api.service_level_objectives_api import (
            ServiceLevelObjectivesApi,
        )

        client = ApiClient(_configuration(access))
        self._env = env
        self._dashboards = DashboardsApi(client)
        self._monitors = MonitorsApi(client)
        self._slos = ServiceLevelObjectivesApi(client)

    def ours(self) -> list[Found]:
        """Everything of this environment that bears our mark. Nothing else is ever touched."""
        return [*self._our_slos(), *self._our_monitors(), *self._our_dashboards()]

    def _our_slos(self) -> Iterator[Found]:
        for each in _pages(
            lambda page: _objects(
                self._slos.list_slos(tags_query=MANAGED, limit=PAGE, offset=page * PAGE), "data"
            )
        ):
            if key := self._key(each.get("tags")):
                yield Found("slo", key, each["id"], each)

    def _our_monitors(self) -> Iterator[Found]:
        for each in _pages(
            lambda page: _objects(
                self._monitors.list_monitors(monitor_tags=MANAGED, page=page, page_size=PAGE)
            )
        ):
            if key := self._key(each.get("tags")):
                yield Found("monitor", key, each["id"], each)

    def _key(self, tags: Any) -> str | None:
        if not isinstance(tags, list) or MANAGED not in tags or f"env:{self._env}" not in tags:
            return None
        marks = (_MARK.fullmatch(str(tag)) for tag in tags)
        return next((mark[1] for mark in marks if mark), None)

    def _our_dashboards(self) -> Iterator[Found]:
        """A list of dashboards has their descriptions only; ours is asked for whole."""
        for each in _pages(
            lambda page: _objects(
                self._dashboards.list_dashboards(count=PAGE, start=page * PAGE), "dashboards"
            )
        ):
            description = str(each.get("description"))
            if MANAGED in description and (mark := _MARK.search(description)):
                (body,) = _objects(self._dashboards.get_dashboard(each["id"]), whole=True)
                yield Found("dashboard", mark[1], each["id"], body)

    def create(self, definition: Definition) -> Any:
        """Make it; answers its id."""
        body = model_of(definition)
        if definition.kind == "slo":
            made = _objects(self._slos.create_slo(body), "data")
        elif definition.kind == "monitor":
            made = _objects(self._monitors.create_monitor(body), whole=True)
        else:
            made = _objects(self._dashboards.create_dashboard(body), whole=True)
        if not made:
            raise Unexpected
        return made[0]["id"]

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


def _configuration(access: Access) -> Any:
    from datadog_api_client import Configuration

    configuration = Configuration(
        **({"host": access.url} if access.url else {}),
        preload_content=True,
        request_timeout=TIMEOUT,
        retry_policy=PoliteRetry(),
        is_iac=True,
    )
    # Its own reading of the environment knows names that we do not promise, and our keys unchecked.
    configuration.api_key = {"apiKeyAuth": access.api_key, "appKeyAuth": access.app_key}
    if not access.url:
        sites = configuration.get_host_settings()[0]["variables"]["site"]["enum_values"]
        if access.site not in sites:
            raise click.ClickException(
                f"DD_SITE is no site of Datadog: it is one of {', '.join(sorted(set(sites)))},"
                " without https:// and without a path"
            )
        configuration.server_variables["site"] = access.site
    # After its constructor, which would give other defaults: the answers as they came.
    configuration.preload_content = False
    return configuration


def _json(answer: Any) -> Any:
    """The JSON of an answer that the client, told so, has not turned into models.

    One that nobody reads would keep its connection from the next request.
    """
    try:
        return json.loads(_whole(answer))
    except (ValueError, RecursionError) as error:
        raise Unexpected from error


def _whole(answer: Any) -> bytes:
    until = time.monotonic() + LONGEST_ANSWER
    data = b""
    while part := answer.read1():
        data += part
        if time.monotonic() > until:
            raise TooSlow
    return data


def _objects(answer: Any, name: str | None = None, *, whole: bool = False) -> list[dict[str, Any]]:
    """The objects of an answer, each with its id; Unexpected if it has others, or none at all.

    Args:
        name: under which they are listed, if the answer is no list itself.
        whole: the answer is one object.
    """
    found = _json(answer)
    if name is not None:
        found = found.get(name) if isinstance(found, dict) else None
    objects = [found] if whole else found
    if isinstance(objects, list) and all(map(_has_id, objects)):
        return objects
    raise Unexpected


def _has_id(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str | int) and bool(value["id"])


def _pages(page: Callable[[int], list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for number in range(MOST_PAGES):
        items = page(number)
        yield from items
        if len(items) < PAGE:
            return
    raise click.ClickException(
        f"Datadog lists {MOST_PAGES * PAGE} objects and goes on: too many to look through, or the"
        " same again and again"
    )


@contextmanager
def explained(access: Access) -> Iterator[None]:
    """Turn what the API refuses into one line that says what to do, and exit code 1."""
    from datadog_api_client.exceptions import ApiException, OpenApiException

    try:
        yield
    except ApiException as error:
        raise click.ClickException(_refusal(error, access)) from error
    except HTTPError as error:
        raise click.ClickException(_silence(getattr(error, "reason", None) or error)) from error
    except (Unexpected, OpenApiException, UnicodeDecodeError) as error:
        raise click.ClickException(
            "what answers is not Datadog's API: see DD_SITE, DD_API_URL and what stands between"
        ) from error


def _refusal(error: Any, access: Access) -> str:
    said = _said(error, access)
    if not error.status:  # the client's way to say that TLS failed
        return _silence(error.__context__ or error)
    if 300 <= error.status < 400:
        return (
            f"a redirect ({error.status}) is not followed, as the keys would go with it: see"
            " DD_SITE, which must be the account's own, and DD_API_URL"
        )
    if error.status == 401:
        return f"Datadog knows no such key (401{said}): see DD_API_KEY and DD_SITE"
    if error.status == 403:
        return (
            f"Datadog refused (403{said}): DD_APP_KEY needs the scopes {SCOPES}, and both keys"
            " must be of the account at DD_SITE"
        )
    if error.status == 429:
        return (
            f"Datadog's rate limit (429) lasts longer than {RETRIES} attempts: run it again in"
            " some minutes; what is done stays done"
        )
    return f"Datadog refused ({error.status}{said})"


def _silence(error: BaseException) -> str:
    return (
        f"Datadog does not answer ({type(error).__name__}): see DD_SITE and the network, then"
        " run it again; what is done stays done"
    )


def _said(error: Any, access: Access) -> str:
    """Datadog's own words, without anything that may be a key."""
    said = error.body.get("errors") if isinstance(error.body, dict) else None
    if not said:
        return ""
    words = "; ".join(str(each) for each in said) if isinstance(said, list) else str(said)
    return f": {one_line(words, keys=access.keys)}"
