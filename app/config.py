"""Every variable that Okuru reads, in one place. `docs/configuration.md` explains them."""

from __future__ import annotations

import os
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from environs import Env, EnvValidationError
from marshmallow.validate import Length, OneOf, Range
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

#: Passwords that stand in tutorials and images: nobody's production may use one.
DEFAULT_SECRETS = frozenset(
    {"", "admin", "changeme", "local", "okuru", "password", "postgres", "secret", "test"}
)
#: Shorter ones can be guessed.
MIN_PASSWORD = 12
#: Where only this machine can reach a process.
LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: Standard Webhooks asks for 24 to 64 random bytes, in base64 behind "whsec_".
MIN_SENDER_SECRET = 24


class ConfigurationError(Exception):
    """The environment cannot be used. The message names every bad variable, and no value."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says. Frozen: a process lives with what it was started with."""

    environment: Literal["local", "production"]
    log_level: str
    log_format: Literal["auto", "json", "text"]
    host: str
    port: int
    web_processes: int
    web_threads: int
    metrics_port: int
    database_url: str = field(repr=False)
    pgpassword: str | None = field(repr=False)
    db_max_open_conns: int
    redis_url: str = field(repr=False)
    redis_pool_size: int
    aws_region: str
    aws_endpoint_url: str | None
    queue_url_prefix: str
    worker_count: int
    worker_grace: float
    ecs_agent_uri: str | None
    poll_wait: int
    retry_scale: float
    sweep_interval: float
    validation_mode: Literal["default", "flexible", "strict"]
    okuru_processors: tuple[str, ...]
    sender: Literal["simulated", "webhook"]
    send_failure_rate: float
    sender_url: str | None
    sender_secret: str | None = field(repr=False)
    sender_connect_timeout: float
    sender_read_timeout: float
    sender_allowed_hosts: frozenset[str]
    dd_trace_enabled: bool

    @property
    def is_local(self) -> bool:
        return self.environment == "local"

    @classmethod
    def from_env(cls, *, sends: bool = True) -> Settings:
        """Read `os.environ`.

        Args:
            sends: whether this process may call the provider. One that does not need not know
                where it is and how its calls are signed.

        Raises:
            ConfigurationError: at least one variable is missing, malformed, or, in
                production, a default secret. All of them are named at once.
        """
        settings, problems = _parse(Env(eager=False))
        if settings is not None:
            problems |= _rules(settings, sends=sends)
        if problems:
            lines = "".join(f"\n  {name}: {why}" for name, why in sorted(problems.items()))
            raise ConfigurationError(
                f"these environment variables need attention (docs/configuration.md):{lines}"
            )
        return cast("Settings", settings)


def settings_or_exit(*, sends: bool = True) -> Settings:
    """For the entry of a process: a bad environment is a message, not a traceback."""
    try:
        return Settings.from_env(sends=sends)
    except ConfigurationError as error:
        raise SystemExit(f"okuru: {error}") from None


def variables() -> frozenset[str]:
    """The names of all variables that `Settings.from_env()` reads."""
    env = Env(eager=False)
    _parse(env)
    return frozenset(env._fields)


def _parse(env: Env) -> tuple[Settings | None, dict[str, str]]:
    # environs cannot type what OneOf allows.
    settings = Settings(
        environment=cast(
            "Any", env.str("ENVIRONMENT", "production", validate=OneOf(["local", "production"]))
        ),
        log_level=env.str(
            "LOG_LEVEL", "INFO", validate=OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])
        ),
        log_format=cast(
            "Any", env.str("LOG_FORMAT", "auto", validate=OneOf(["auto", "json", "text"]))
        ),
        host=env.str("HOST", "127.0.0.1", validate=Length(1)),  # "" would be every interface
        port=env.int("PORT", 8080, validate=Range(1, 65535)),
        web_processes=env.int("WEB_PROCESSES", 2, validate=Range(1, 64)),
        web_threads=env.int("WEB_THREADS", 32, validate=Range(1, 256)),
        metrics_port=env.int("METRICS_PORT", 0, validate=Range(0, 65535)),
        database_url=env.str("DATABASE_URL"),
        # libpq reads it by itself: a secret of its own, so that the URL is none.
        pgpassword=env.str("PGPASSWORD", "") or None,
        db_max_open_conns=env.int("DB_MAX_OPEN_CONNS", 20, validate=Range(1, 500)),
        redis_url=env.str("REDIS_URL", "redis://127.0.0.1:6379/0"),
        redis_pool_size=env.int("REDIS_POOL_SIZE", 10, validate=Range(1, 500)),
        aws_region=env.str("AWS_REGION", "ap-northeast-1", validate=Length(1)),
        aws_endpoint_url=env.str("AWS_ENDPOINT_URL", "") or None,
        queue_url_prefix=env.str("QUEUE_URL_PREFIX"),
        worker_count=env.int("WORKER_COUNT", 4, validate=Range(1, 256)),
        worker_grace=env.float("WORKER_GRACE", 100.0, validate=Range(0, 3600)),
        ecs_agent_uri=env.str("ECS_AGENT_URI", "") or None,
        poll_wait=env.int("POLL_WAIT", 20, validate=Range(1, 20)),
        retry_scale=env.float("RETRY_SCALE", 1.0, validate=Range(0.001, 1)),
        sweep_interval=env.float("SWEEP_INTERVAL", 60.0, validate=Range(0.1, 3600)),
        validation_mode=cast(
            "Any",
            env.str(
                "VALIDATION_MODE", "default", validate=OneOf(["default", "flexible", "strict"])
            ),
        ),
        okuru_processors=tuple(
            name.strip() for name in env.list("OKURU_PROCESSORS", [], subcast=str) if name.strip()
        ),
        sender=cast(
            "Any", env.str("SENDER", "simulated", validate=OneOf(["simulated", "webhook"]))
        ),
        send_failure_rate=env.float("SEND_FAILURE_RATE", 0.2, validate=Range(0, 1)),
        sender_url=env.str("SENDER_URL", "") or None,
        sender_secret=env.str("SENDER_SECRET", "") or None,
        # Together below the soft time limit of tasks/gifts.py.
        sender_connect_timeout=env.float("SENDER_CONNECT_TIMEOUT", 2.0, validate=Range(0.1, 3)),
        sender_read_timeout=env.float("SENDER_READ_TIMEOUT", 8.0, validate=Range(0.1, 10)),
        sender_allowed_hosts=frozenset(
            env.list("SENDER_ALLOWED_HOSTS", [], subcast=lambda host: host.strip().lower())
        ),
        dd_trace_enabled=env.bool("DD_TRACE_ENABLED", False),
    )
    try:
        env.seal()
    except EnvValidationError as error:
        # Its own text may quote a value, and a value may be a secret.
        return None, {name: _reason(name) for name in error.error_messages}
    return settings, {}


def _reason(name: str) -> str:
    return "is not valid" if os.environ.get(name) else "is not set"


def _rules(settings: Settings, *, sends: bool) -> dict[str, str]:
    """What single values cannot say: {variable: what is wrong}."""
    problems = {}
    if settings.is_local and settings.host not in LOOPBACK:
        problems["HOST"] = "ENVIRONMENT=local lets anyone in: it listens on 127.0.0.1 only"
    try:
        database = make_url(settings.database_url)
    except (ArgumentError, ValueError):  # a port that is no number, an address that is none
        problems["DATABASE_URL"] = "is not a database URL"
    else:
        if database.drivername not in ("postgresql", "postgresql+psycopg2"):
            problems["DATABASE_URL"] = "must begin with postgresql+psycopg2://"
        elif not settings.is_local and _is_guessable(database, settings.pgpassword):
            problems["DATABASE_URL"] = "production needs a password of 12 characters or more"
    if _scheme(settings.redis_url) not in ("redis", "rediss"):
        problems["REDIS_URL"] = "must begin with redis:// or rediss://"
    if not _is_http(settings.queue_url_prefix):
        problems["QUEUE_URL_PREFIX"] = "must be the beginning of the queues' http(s) URLs"
    if settings.sender == "webhook" and sends:
        if not _is_http(settings.sender_url or ""):
            problems["SENDER_URL"] = "SENDER=webhook needs an http(s) URL"
        elif not settings.is_local and _scheme(settings.sender_url or "") != "https":
            problems["SENDER_URL"] = "production sends gift codes over https only"
        if not _can_sign(settings.sender_secret or ""):
            problems["SENDER_SECRET"] = "must be whsec_ and base64 of 24 bytes or more"  # noqa: S105
    return problems


def _is_guessable(database: URL, pgpassword: str | None) -> bool:
    # In the order in which libpq looks for it.
    password = str(database.query.get("password") or database.password or pgpassword or "")
    user = str(database.query.get("user") or database.username or "")
    return (
        len(password) < MIN_PASSWORD
        or password.strip("<>${}") != password  # a template that nobody filled in
        or password.lower() in DEFAULT_SECRETS | {user.lower()}
    )


def _is_http(url: str) -> bool:
    if not url.isprintable() or _scheme(url) not in ("http", "https"):
        return False
    parts = urlsplit(url)
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # half an IPv6 address
        return ""


def _can_sign(secret: str) -> bool:
    marker, _, random = secret.partition("_")
    try:
        key = b64decode(random, validate=True)
        # Random bytes hardly repeat: zeros and "changemechangeme…" do.
        return marker == "whsec" and len(key) >= MIN_SENDER_SECRET and len(set(key)) >= 12
    except ValueError:
        return False
