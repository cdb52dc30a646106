"""Where Datadog's API is, and the keys to it: what the environment and the options say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import click

DEFAULT_SITE = "datadoghq.com"
SCOPES = (
    "dashboards_read, dashboards_write, monitors_read, monitors_write, slos_read and slos_write"
)

#: A header would carry no more. Datadog's keys are 32 and 40 hexadecimal digits today.
_KEY = re.compile(r"[!-~]+")
#: Nothing that two readers of a URL could read differently. In the clear only to this machine.
_URL = re.compile(r"(https://[a-z0-9.-]+|http://127\.0\.0\.1)(:\d{1,5})?(/[\w./~-]*)?", re.I)


@dataclass(frozen=True)
class Access:
    """An account, checked as far as it can be without asking it."""

    api_key: str = field(repr=False)
    app_key: str = field(repr=False)
    site: str
    url: str | None
    """Instead of the site's."""

    @property
    def keys(self) -> tuple[str, str]:
        """What nobody may see."""
        return self.api_key, self.app_key


def access(environ: Mapping[str, str], api_url: str | None) -> Access:
    """Read it; a ClickException says what is missing or has not its form, and quotes nothing."""
    keys = {name: environ.get(name, "").strip() for name in ("DD_API_KEY", "DD_APP_KEY")}
    if missing := [name for name, key in keys.items() if not key]:
        raise click.ClickException(
            f"{' and '.join(missing)} must be set: an API key and an application key of the"
            f" account, the latter with the scopes {SCOPES}"
        )
    for name, key in keys.items():
        if not _KEY.fullmatch(key):
            raise click.ClickException(
                f"{name} is no key: it has spaces, line breaks or characters that are not ASCII"
            )
    url = (api_url or "").strip() or None
    if url and not _URL.fullmatch(url):
        raise click.ClickException(
            "--api-url must be https, such as https://api.datadoghq.eu, without user, query or"
            " fragment: the keys are sent there (DD_API_URL says the same)"
        )
    return Access(
        api_key=keys["DD_API_KEY"],
        app_key=keys["DD_APP_KEY"],
        site=environ.get("DD_SITE", "").strip() or DEFAULT_SITE,
        url=url.rstrip("/") if url else None,
    )
