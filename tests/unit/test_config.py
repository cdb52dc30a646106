"""The environment: read once, refused as a whole, and never quoted."""

from __future__ import annotations

import base64
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from app import config
from app.config import ConfigurationError, Settings

PROJECT = Path(__file__).parents[2]

#: The least that a process needs; what a variable without a default has to be.
REQUIRED = {
    "DATABASE_URL": "postgresql+psycopg2://okuru:n0-tutorial-has-this@db.internal:5432/okuru",
    "QUEUE_URL_PREFIX": "https://sqs.ap-northeast-1.amazonaws.com/123456789012/okuru-",
}
SIGNING_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
WEBHOOK = {
    "SENDER": "webhook",
    "SENDER_URL": "https://provider.example/gifts",
    "SENDER_SECRET": SIGNING_SECRET,
}


@pytest.fixture(autouse=True)
def _required_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.from_env()


def complaints(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    """What `from_env()` says of each variable; empty when it accepts all."""
    try:
        read(monkeypatch, **variables)
    except ConfigurationError as error:
        return dict(re.findall(r"^  (\w+): (.+)$", str(error), re.MULTILINE))
    return {}


def test_the_required_variables_are_enough_and_mean_production() -> None:
    settings = Settings.from_env()

    assert settings.environment == "production"
    assert not settings.is_local


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)

    assert complaints(monkeypatch) == {name: "is not set"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "staging"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_FORMAT", "xml"),
        ("HOST", ""),  # gunicorn would listen on every interface
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT", ""),
        ("PORT", "80.5"),
        ("WEB_PROCESSES", "0"),
        ("WEB_THREADS", "-1"),
        ("METRICS_PORT", "-1"),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "not a URL"),
        ("DATABASE_URL", "mysql://user:hunter2hunter2@db/okuru"),
        ("DATABASE_URL", "postgresql+asyncpg://user:hunter2hunter2@db/okuru"),
        ("DATABASE_URL", "postgresql://user:hunter2hunter2@db:port/okuru"),
        ("DB_MAX_OPEN_CONNS", "0"),
        ("REDIS_URL", "http://cache"),
        ("REDIS_URL", "redis://[cache"),
        ("REDIS_POOL_SIZE", "many"),
        ("AWS_REGION", ""),
        ("QUEUE_URL_PREFIX", "okuru-"),
        ("QUEUE_URL_PREFIX", "sqs://queue/okuru-"),
        ("QUEUE_URL_PREFIX", "https://[sqs/okuru-"),
        ("WORKER_COUNT", "0"),
        ("RETRY_SCALE", "0"),
        ("RETRY_SCALE", "1.1"),
        ("SWEEP_INTERVAL", "0"),
        ("VALIDATION_MODE", ""),
        ("VALIDATION_MODE", "lenient"),
        ("VALIDATION_MODE", "Strict"),
        ("SENDER", "pigeon"),
        ("SEND_FAILURE_RATE", "1.01"),
        ("SEND_FAILURE_RATE", "nan"),
        ("SENDER_CONNECT_TIMEOUT", "inf"),
        ("SENDER_READ_TIMEOUT", "11"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read(monkeypatch, **{name: value})

    assert re.findall(r"^  (\w+): ", str(refusal.value), re.MULTILINE) == [name]
    assert value == "" or f" {value}" not in str(refusal.value)


def test_all_bad_variables_are_named_at_once_and_no_value_is_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = {
        "PORT": "port-value",
        "LOG_LEVEL": "level-value",
        "DB_MAX_OPEN_CONNS": "conns-value",
        "SENDER": "sender-value",
    }
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(ConfigurationError) as refusal:
        read(monkeypatch, **bad)

    assert set(re.findall(r"^  (\w+): ", str(refusal.value), re.MULTILINE)) == {
        *bad,
        "DATABASE_URL",
    }
    assert "-value" not in str(refusal.value)


def test_rules_over_several_variables_are_named_at_once_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(
        complaints(
            monkeypatch,
            DATABASE_URL="mysql://db/okuru",
            REDIS_URL="memcached://cache",
            QUEUE_URL_PREFIX="okuru-",
            SENDER="webhook",
        )
    ) == {"DATABASE_URL", "REDIS_URL", "QUEUE_URL_PREFIX", "SENDER_URL", "SENDER_SECRET"}


@pytest.mark.parametrize("password", sorted(config.DEFAULT_SECRETS))
def test_production_refuses_a_default_password_and_the_local_stack_does_not(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    url = f"postgresql+psycopg2://okuru:{password}@db/okuru"

    assert set(complaints(monkeypatch, DATABASE_URL=url)) == {"DATABASE_URL"}
    assert complaints(monkeypatch, DATABASE_URL=url, ENVIRONMENT="local") == {}


def test_production_refuses_a_url_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg2://db/okuru"

    assert set(complaints(monkeypatch, DATABASE_URL=url)) == {"DATABASE_URL"}


@pytest.mark.parametrize(
    ("password", "complained"), [("n0-tutorial-has-this", set()), ("changeme", {"DATABASE_URL"})]
)
def test_the_password_may_stand_beside_the_url(
    monkeypatch: pytest.MonkeyPatch, password: str, complained: set[str]
) -> None:
    url = "postgresql+psycopg2://okuru@db/okuru"

    assert set(complaints(monkeypatch, DATABASE_URL=url, PGPASSWORD=password)) == complained


def test_a_complete_webhook_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaints(monkeypatch, **WEBHOOK) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SENDER_URL", ""),
        ("SENDER_URL", "provider.example/gifts"),
        ("SENDER_URL", "ftp://provider.example/gifts"),
        ("SENDER_URL", "http://provider.example/gifts"),  # a code in the clear
        ("SENDER_URL", "https://[provider.example/gifts"),
        ("SENDER_SECRET", ""),
        ("SENDER_SECRET", "whsec_c2hvcnQ="),
        ("SENDER_SECRET", SIGNING_SECRET.removeprefix("whsec_")),
        ("SENDER_SECRET", "whsec_" + "?" * 64),
    ],
)
def test_a_webhook_that_could_not_be_called_or_signed_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert set(complaints(monkeypatch, **{**WEBHOOK, name: value})) == {name}


@pytest.mark.parametrize("name", ["SENDER_URL", "SENDER_SECRET"])
def test_a_process_that_does_not_send_need_not_know_how(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in {**WEBHOOK, name: ""}.items():
        monkeypatch.setenv(variable, value)

    assert Settings.from_env(sends=False).sender == "webhook"
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env()


def test_the_local_stack_may_send_over_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    local = {**WEBHOOK, "ENVIRONMENT": "local", "SENDER_URL": "http://127.0.0.1:9/gifts"}

    assert complaints(monkeypatch, **local) == {}


def test_lists_are_split_and_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, SENDER_ALLOWED_HOSTS="a.internal, b.internal")

    assert settings.sender_allowed_hosts == {"a.internal", "b.internal"}


@pytest.mark.parametrize(
    ("value", "modules"),
    [
        ("", ()),
        (" ", ()),
        (",", ()),
        ("shop.jobs", ("shop.jobs",)),
        (" shop.jobs, billing.jobs ,", ("shop.jobs", "billing.jobs")),
    ],
)
def test_modules_of_processors_are_named_in_their_order(
    monkeypatch: pytest.MonkeyPatch, value: str, modules: tuple[str, ...]
) -> None:
    assert read(monkeypatch, OKURU_PROCESSORS=value).okuru_processors == modules


@pytest.mark.parametrize("mode", ["default", "flexible", "strict"])
def test_a_validation_mode_is_one_of_three(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    assert Settings.from_env().validation_mode == "default"
    assert read(monkeypatch, VALIDATION_MODE=mode).validation_mode == mode


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings.from_env().port = 1  # type: ignore[misc]


def test_the_repr_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = repr(
        read(
            monkeypatch,
            **WEBHOOK,
            DATABASE_URL="postgresql+psycopg2://u:database-secret@db/okuru",
            REDIS_URL="redis://:redis-secret@cache/0",
            PGPASSWORD="libpq-secret",
        )
    )

    assert "webhook" in shown
    for secret in ("database-secret", "redis-secret", "libpq-secret", SIGNING_SECRET):
        assert secret not in shown


# --- the three places that name the variables ---------------------------------------------------


def example() -> dict[str, str | None]:
    """`.env.example`: {name: default}, None for what is commented out."""
    lines = re.findall(
        r"^(# )?([A-Z][A-Z0-9_]+)=(.*)$", (PROJECT / ".env.example").read_text(), re.MULTILINE
    )
    names = [name for _, name, _ in lines]
    assert len(names) == len(set(names)), "a variable stands twice"
    return {name: None if commented else default for commented, name, default in lines}


def documented() -> dict[str, str]:
    """The tables of docs/configuration.md: {name: the cell of its default}."""
    rows = re.findall(
        r"^\| `([A-Z][A-Z0-9_]+)` \| ([^|]*?) \|",
        (PROJECT / "docs" / "configuration.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == len(dict(rows)), "a variable stands twice"
    return dict(rows)


def test_the_code_the_example_and_the_documentation_name_the_same_variables() -> None:
    assert set(example()) == config.variables()
    assert set(documented()) == config.variables()


def test_the_example_holds_every_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings.from_env()
    given = {name: default for name, default in example().items() if default is not None}

    assert read(monkeypatch, **given) == defaults
    # What is commented out has none: the setting is empty or has to be given.
    for name in example().keys() - given.keys() - REQUIRED.keys():
        assert not getattr(defaults, name.lower()), name


def test_the_documentation_shows_the_defaults_of_the_example() -> None:
    shown = documented()

    assert {name: shown[name] for name, default in example().items() if default is not None} == {
        name: f"`{default}`" for name, default in example().items() if default is not None
    }
    assert not [
        name for name, default in example().items() if default is None and "`" in shown[name]
    ]


def test_the_example_is_not_empty() -> None:
    """The comparisons above would hold for a file whose lines nobody can parse."""
    assert len(config.variables()) > 20
