"""Processors: what jobs do. One registry, by job type.

    @processor("resize", ResizePayload)
    def resize(context: Context, payload: dict[str, Any]) -> Any:
        ...

A processor may run more than once for one job: a crash may come after its effect and before its
record. It passes `context.idempotency_key` on to whatever it changes. What it returns is kept as
the job's result, as JSON. It raises `PermanentError` when trying again cannot help; whatever else
it raises is tried again.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

import marshmallow as ma

from app.jobs.models import MAX_TYPE

#: Modules with the processors that Okuru ships.
SHIPPED = ("app.users.processors", "app.messages.processors", "app.analysis.processors")


class BadProcessor(Exception):
    """A processor, or the module that should hold some, cannot be used. The message says why."""


@dataclass(frozen=True)
class JobView:
    """What a processor may know of its job."""

    id: UUID
    job_type: str
    account_id: UUID
    priority: int
    execution: int
    """1 the first time."""


class Context(Protocol):
    """Given to each execution of a processor."""

    @property
    def job(self) -> JobView: ...

    @property
    def idempotency_key(self) -> str:
        """The same at each execution of one job, and of no other."""

    def progress(self, percent: int, note: str | None = None) -> None:
        """Show how far it is. An execution that is no longer the job's own changes nothing."""

    def is_cancelled(self) -> bool:
        """Whether the job's owner has asked it to stop."""

    def stop_if_cancelled(self) -> None:
        """Raises CalledOff, which ends the job as CANCELLED, if its owner has asked it to stop."""


Process = Callable[[Context, dict[str, Any]], Any]
F = TypeVar("F", bound=Process)


@dataclass(frozen=True)
class Processor:
    job_type: str
    schema: ma.Schema
    process: Process
    reserved: bool


_registry: dict[str, Processor] = {}
_modules: set[str] = set()


def registers(module: str) -> None:
    """Note that a module is of use: it registers a processor, or what a processor asks for."""
    _modules.add(module)


def processor(
    job_type: str, schema: type[ma.Schema], *, reserved: bool = False
) -> Callable[[F], F]:
    """Register a function as the processor of a job type.

    Args:
        schema: of the payload; fields that it does not name are refused.
        reserved: only the service itself and operators may enqueue it.

    Raises:
        BadProcessor: the type has another processor already, or the arguments are none.
    """
    if not isinstance(job_type, str) or not 0 < len(job_type) <= MAX_TYPE:
        raise BadProcessor(f"{job_type!r} is no job type: text of 1 to {MAX_TYPE} characters")
    if not (inspect.isclass(schema) and issubclass(schema, ma.Schema)):
        raise BadProcessor(f"{job_type}: its payload needs a marshmallow schema, as a class")

    def register(process: F) -> F:
        try:
            inspect.signature(process).bind(None, {})
        except TypeError:
            raise BadProcessor(f"{job_type}: a processor takes (context, payload)") from None
        known = _registry.get(job_type)
        if known and (known.process.__module__, known.process.__qualname__) != (
            process.__module__, process.__qualname__,
        ):  # fmt: skip
            raise BadProcessor(f"{job_type} has a processor already: {known.process.__module__}")
        registers(process.__module__)
        _registry[job_type] = Processor(job_type, schema(unknown=ma.RAISE), process, reserved)
        return process

    return register


def load(modules: Iterable[str] = ()) -> None:
    """Import the processors that Okuru ships, and those of a user's own modules.

    Raises:
        BadProcessor: names the module that cannot be imported, or whose processors cannot be used.
    """
    # As gunicorn and celery do: a package may lie where the process was started.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in (*SHIPPED, *modules):
        place = name if name in SHIPPED else f"OKURU_PROCESSORS: {name}"
        before = len(_modules)
        try:
            import_module(name)
        except BadProcessor as error:
            raise BadProcessor(f"{place}: {error}") from None
        except (Exception, SystemExit) as error:
            raise BadProcessor(
                f"{place} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        own = any(module == name or module.startswith(f"{name}.") for module in _modules)
        if len(_modules) == before and not own:
            raise BadProcessor(f"{place} registers no processor")


def load_or_exit(modules: Iterable[str] = ()) -> None:
    """For the entry of a process: a bad module is a message, not a traceback."""
    try:
        load(modules)
    except BadProcessor as error:
        raise SystemExit(f"okuru: {error}") from None


def find(job_type: str) -> Processor | None:
    return _registry.get(job_type)


def open_types() -> list[str]:
    """The job types that everyone may enqueue."""
    return sorted(each.job_type for each in _registry.values() if not each.reserved)
