"""The OpenAPI document against the API, by schemathesis: what it promises is what happens."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck
from hypothesis import settings as examples
from sqlalchemy import text
from sqlalchemy.orm import Session

from app import create_app, db
from app.accounts import service
from app.accounts.service import Principal
from app.config import Settings
from app.http.pagination import page
from app.notifications.service import list_notifications, notify
from tests.factories import accounts, gifts, jobs
from tests.integration.api import empty


def documented() -> Flask:
    """The API as it documents itself: everything needs a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENVIRONMENT", "production")
        patch.setenv(
            "DATABASE_URL", "postgresql+psycopg2://nobody:nowhere-at-all@127.0.0.1:1/nothing"
        )
        patch.setenv("QUEUE_URL_PREFIX", "http://127.0.0.1:1/000000000000/none-")
        return create_app(Settings.from_env())


A_CURSOR = page([SimpleNamespace(created_at=datetime.now(UTC), id=uuid4())] * 2, 1)["next_cursor"]

# Each operation becomes a test when the tests are collected, before there is a database.
document = schemathesis.openapi.from_wsgi("/openapi.json", documented())


@pytest.fixture(scope="module", autouse=True)
def key(settings: Settings) -> Iterator[str]:
    """The key of an account; the API has its database now."""
    engine = db.configure(settings, db.API)
    with db.transaction() as session:
        made = accounts.key(session)[1]
    Key.value = made
    yield made
    empty(engine)
    engine.dispose()


@document.auth()
class Key:
    """Sent with every case but those that try without."""

    value = ""

    def get(self, _case: schemathesis.Case, _context: Any) -> str:
        return self.value

    def set(self, case: schemathesis.Case, data: str, _context: Any) -> None:
        case.headers["X-API-Key"] = data


def copied(function: Any) -> Any:
    """A function of its own, as schemathesis and hypothesis write on what they are given."""

    @functools.wraps(function)
    def copy(case: schemathesis.Case) -> None:
        function(case)

    return copy


def without_fractions(value: Any) -> Any:
    """JSON Schema calls 1.0 an integer, and has no words for the API's refusal of it."""
    if isinstance(value, dict):
        return {name: without_fractions(child) for name, child in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


bounded = examples(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def holds(case: schemathesis.Case) -> None:
    """The operation does what its documentation says."""
    with db.transaction() as session:
        session.execute(text("DELETE FROM idempotency_keys"))  # else one of the cases before: 422
    if case.meta.generation.mode.is_positive:
        case.body = without_fractions(case.body)
        if case.operation.label == "POST /jobs":
            # Which types there are, and what each takes, is known to the registry alone.
            case.body |= {"job_type": "data_analysis", "payload": {}}
        if "cursor" in case.query:
            case.query["cursor"] = A_CURSOR  # opaque: nobody can make one up

    case.call_and_validate()


def a_gift(session: Session, owner: Principal) -> UUID:
    return gifts.created(session, owner=owner).id


def a_job(session: Session, owner: Principal) -> UUID:
    return jobs.enqueued(session, owner=owner).id


def a_notification(session: Session, owner: Principal) -> UUID:
    notify(session, recipient=str(owner.account_id), title="t", body="b", occasion=str(uuid4()))
    return list_notifications(session, owner, limit=1)[0].id


def the_user(session: Session, owner: Principal) -> UUID:
    return owner.account_id


#: How a row is made that the parameter of a path may name.
ROWS: dict[str, Callable[[Session, Principal], UUID]] = {
    "gift_id": a_gift,
    "job_id": a_job,
    "notification_id": a_notification,
    "user_id": the_user,
}


def holds_for_a_row_that_exists(case: schemathesis.Case) -> None:
    """A random id is never one: without this, 404 would be all that is ever seen."""
    with db.transaction() as session:
        owner = service.authenticate(session, Key.value)
        for parameter in case.path_parameters:
            case.path_parameters[parameter] = str(ROWS[parameter](session, owner))

    response = case.call_and_validate(
        # It expects that a bad id is refused; here it has become a good one.
        excluded_checks=[schemathesis.checks.negative_data_rejection]
    )

    assert response.status_code != 404


# A function each: all parts of `document.parametrize()` have the same id, of which pytest-xdist
# runs one.
for label in (found.ok().label for found in document.get_all_operations()):
    name = re.sub(r"\W+", "_", label).strip("_").lower()
    for check in (holds, holds_for_a_row_that_exists):
        if check is holds or "{" in label:
            globals()[f"test_{name}_{check.__name__}"] = document.include(name=label).parametrize()(
                bounded(copied(check))
            )


def test_every_parameter_of_a_path_names_a_row_that_can_be_made() -> None:
    labels = " ".join(found.ok().label for found in document.get_all_operations())
    assert set(re.findall(r"{(\w+)}", labels)) == ROWS.keys()


def test_every_operation_has_its_test() -> None:
    tests = [name for name in globals() if name.endswith("_holds")]
    assert len(tests) == document.statistic.operations.total >= 5
