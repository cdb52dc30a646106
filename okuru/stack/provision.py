"""What a stack needs on its servers before its processes can start."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alembic.util import CommandError
from psycopg2 import errorcodes
from sqlalchemy.orm import Session

from app import db
from app.accounts import service as accounts
from app.config import ConfigurationError, Settings
from app.errors import Unauthenticated
from okuru.stack.errors import StackError
from tasks.engine import queues, sqs
from tasks.engine.catalogue import Catalogue

_USER_EMAIL = "user@localhost"
_KEY_NAME = "local stack"


def check_settings(environment: Mapping[str, str]) -> None:
    """Refuse a bad environment once, and not once a process. Raises StackError."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(environment)
        Settings.from_env()
    except ConfigurationError as error:
        raise StackError(str(error)) from None
    finally:
        os.environ.clear()
        os.environ.update(before)


def migrate(database_url: str) -> None:
    """Bring the schema up to date. Raises StackError if the database does not answer."""
    with outages_explained():
        try:
            db.upgrade(database_url)
        except CommandError as error:
            raise StackError(
                f"{error}: the database comes from another version of the code. "
                "`make reset-db` makes an empty one"
            ) from error


@contextmanager
def outages_explained() -> Iterator[None]:
    """Turn the errors of a database that does not answer into StackError."""
    try:
        yield
    except db.OUTAGE_ERRORS as error:
        if getattr(getattr(error, "orig", None), "pgcode", None) == errorcodes.LOCK_NOT_AVAILABLE:
            raise StackError(
                "a table is in use for longer than we make others wait for it: nothing was changed "
                "by this step; run it again"
            ) from error
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        raise StackError(
            f"the database (DATABASE_URL, if it is set) does not answer: {reason}"
        ) from error


def create_queues(environment: Mapping[str, str]) -> None:
    """Make the queues of the catalogue, and their dead-letter queues, where there are none."""
    client = sqs.client(
        environment["AWS_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    queues.create(client, Catalogue.load(environment["QUEUE_URL_PREFIX"]))


def queue_urls(url_prefix: str) -> dict[str, str]:
    """Return NAME_QUEUE_URL and NAME_DLQ_URL of every queue of the catalogue."""
    catalogue = Catalogue.load(url_prefix)
    urls: dict[str, str] = {}
    for queue in catalogue:
        variable = queue.name.upper().replace("-", "_")
        urls[f"{variable}_QUEUE_URL"] = catalogue.url(queue.name)
        urls[f"{variable}_DLQ_URL"] = catalogue.url(queue.dead_letter_queue)
    return urls


def ensure_keys(database_url: str, previous: Mapping[str, str]) -> dict[str, str]:
    """Return API_KEY and ADMIN_API_KEY: the previous ones where they still open the API."""
    engine = db.engine_for(database_url, db.OPERATOR)
    with outages_explained(), Session(engine) as session, session.begin():
        # The account of requests without credentials; the operator's key opens the same one.
        accounts.local_operator(session)
        roles: dict[str, tuple[str, accounts.Role]] = {
            "API_KEY": (_USER_EMAIL, "user"),
            "ADMIN_API_KEY": (accounts.LOCAL_OPERATOR_EMAIL, "operator"),
        }
        keys = {}
        for variable, (email, role) in roles.items():
            key = previous.get(variable)
            if key is None or not _opens(session, key):
                _, key = accounts.create_key(session, email=email, role=role, name=_KEY_NAME)
            keys[variable] = key
    return keys


def _opens(session: Session, key: str) -> bool:
    try:
        accounts.authenticate(session, key)
    except Unauthenticated:
        return False
    return True
