"""The registry of processors, and what is said about modules that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import marshmallow as ma
import pytest

from app.jobs import processors
from app.jobs.processors import BadProcessor, processor
from okuru.stack import ports
from tests.unit.test_messages import ENVIRONMENT


class Payload(ma.Schema):
    number = ma.fields.Integer()


def act(context: Any, payload: dict[str, Any]) -> None: ...


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, and what it imports, is gone after it."""
    processors.load()
    monkeypatch.setattr(processors, "_registry", dict(processors._registry))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


# --- registering --------------------------------------------------------------------------------


def test_a_registered_processor_is_found_by_its_type_and_stays_a_function() -> None:
    assert processor("test.act", Payload)(act) is act
    found = processors.find("test.act")
    assert found is not None
    assert (found.job_type, found.process, found.reserved) == ("test.act", act, False)
    assert "test.act" in processors.open_types()
    assert processors.open_types() == sorted(processors.open_types())
    assert processors.find("nobody.knows") is None


def test_a_payload_may_have_no_field_that_its_schema_does_not_name() -> None:
    class Generous(ma.Schema):
        class Meta:
            unknown = ma.INCLUDE

    processor("test.act", Generous)(act)
    found = processors.find("test.act")
    assert found is not None
    assert found.schema.validate({"other": 1}) == {"other": ["Unknown field."]}


def test_a_type_may_be_reserved() -> None:
    processor("test.act", Payload, reserved=True)(act)
    found = processors.find("test.act")
    assert found is not None
    assert found.reserved


@pytest.mark.parametrize("job_type", ["x", "x" * 80, "my_pkg.résumé"])
def test_a_type_is_text(job_type: str) -> None:
    processor(job_type, Payload)(act)
    assert processors.find(job_type) is not None


@pytest.mark.parametrize("job_type", ["", "x" * 81, None, 7, b"x"], ids=repr)
def test_what_is_no_type_is_refused(job_type: Any) -> None:
    with pytest.raises(BadProcessor, match="is no job type: text of 1 to 80 characters"):
        processor(job_type, Payload)


@pytest.mark.parametrize("schema", [None, dict, Payload(), {"number": int}], ids=repr)
def test_a_payload_needs_a_schema(schema: Any) -> None:
    with pytest.raises(BadProcessor, match=r"test\.act: its payload needs a marshmallow schema"):
        processor("test.act", schema)


SIGNATURES: dict[str, tuple[Callable[..., Any], bool]] = {
    "two": (lambda context, payload: None, True),
    "any number": (lambda *arguments: None, True),
    "a third with a default": (lambda context, payload, *, other=1: None, True),
    "none": (lambda: None, False),
    "one": (lambda context: None, False),
    "three": (lambda context, payload, other: None, False),
    "by name": (lambda *, context, payload: None, False),
    "a third by name": (lambda context, payload, *, other: None, False),
}


@pytest.mark.parametrize(("process", "is_good"), SIGNATURES.values(), ids=SIGNATURES.keys())
def test_a_processor_takes_a_context_and_a_payload(
    process: Callable[..., Any], is_good: bool
) -> None:
    register = processor("test.act", Payload)
    if is_good:
        assert register(process) is process
    else:
        with pytest.raises(BadProcessor, match=r"test\.act: a processor takes \(context, payload"):
            register(process)
        assert processors.find("test.act") is None


def test_a_type_has_one_processor() -> None:
    processor("test.act", Payload)(act)

    def other(context: Any, payload: dict[str, Any]) -> None: ...

    with pytest.raises(BadProcessor, match=rf"test\.act has a processor already: {__name__}"):
        processor("test.act", Payload)(other)
    found = processors.find("test.act")
    assert found is not None
    assert found.process is act


def test_a_module_that_is_imported_twice_registers_the_same() -> None:
    for _ in range(2):
        processor("test.act", Payload)(act)
    assert processors.open_types().count("test.act") == 1


# --- loading ------------------------------------------------------------------------------------

GOOD = """
import marshmallow as ma
from app.jobs.processors import processor

class Payload(ma.Schema):
    number = ma.fields.Integer()

@processor("{job_type}", Payload)
def act(context, payload):
    pass
"""

#: The modules of a user, and what is said of each.
BAD: dict[str, tuple[str, str]] = {
    "missing": ("", "bad_pkg cannot be imported: ModuleNotFoundError: No module named 'bad_pkg'"),
    "a syntax error": ("def", "bad_pkg cannot be imported: SyntaxError: "),
    "raises": ("1 / 0", "bad_pkg cannot be imported: ZeroDivisionError: division by zero"),
    "imports what is missing": (
        "import nowhere.at_all",
        "bad_pkg cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
    ),
    "registers none": ("answer = 42", "bad_pkg registers no processor"),
    "a type that is taken": (
        GOOD.format(job_type="data_analysis"),
        "bad_pkg: data_analysis has a processor already: app.analysis.processors",
    ),
    "no type": (GOOD.format(job_type=""), "bad_pkg: '' is no job type: text of 1 to 80 characters"),
    "no schema": (
        GOOD.format(job_type="mine").replace("(ma.Schema)", ""),
        "bad_pkg: mine: its payload needs a marshmallow schema, as a class",
    ),
    "a wrong signature": (
        GOOD.format(job_type="mine").replace("context, payload", "payload"),
        "bad_pkg: mine: a processor takes (context, payload)",
    ),
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> None:
        if source:
            (tmp_path / f"{name}.py").write_text(source)

    return write


@pytest.mark.parametrize(("source", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_module_is_named_with_its_mistake(
    write: Callable[[str, str], None], source: str, said: str
) -> None:
    write("bad_pkg", source)
    with pytest.raises(BadProcessor) as refused:
        processors.load(["bad_pkg"])
    assert str(refused.value).startswith(f"OKURU_PROCESSORS: {said}")
    assert processors.find("mine") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "my-pkg", ".relative", "os.path.join"])
def test_what_is_no_name_of_a_module_is_named(name: str) -> None:
    with pytest.raises(BadProcessor, match=r"OKURU_PROCESSORS: .* cannot be imported: "):
        processors.load([name])


def test_a_good_module_is_imported_as_often_as_it_is_asked_for(
    write: Callable[[str, str], None],
) -> None:
    write("good_pkg", GOOD.format(job_type="mine"))
    for _ in range(2):
        processors.load(["good_pkg", "good_pkg"])
    assert "mine" in processors.open_types()


def test_a_package_may_leave_it_to_its_modules(
    tmp_path: Path, write: Callable[[str, str], None]
) -> None:
    (tmp_path / "folder").mkdir()
    write("folder/__init__", "from folder import good")
    write("folder/good", GOOD.format(job_type="mine"))
    processors.load(["folder"])
    processors.load(["folder"])
    assert "mine" in processors.open_types()


def test_the_modules_that_are_shipped_have_processors() -> None:
    assert processors.find("data_analysis")
    assert processors.find("user_created")
    assert "user_created" not in processors.open_types(), "it is reserved"


# --- the processes ------------------------------------------------------------------------------

STARTS = {
    "worker": [sys.executable, "-c", "import tasks.celery"],
    "celery": [sys.executable, "-m", "celery", "-A", "tasks", "report"],
    "api": [
        sys.executable, "-m", "gunicorn", "--config", "app/server.py", "app:create_app()",
    ],
}  # fmt: skip


@pytest.mark.parametrize("process", STARTS)
@pytest.mark.parametrize("module", ["bad_pkg", "nowhere.at_all"])
def test_a_process_with_a_bad_module_does_not_start_and_says_why_in_one_line(
    tmp_path: Path, write: Callable[[str, str], None], process: str, module: str
) -> None:
    write("bad_pkg", "answer = 42")
    done = subprocess.run(
        STARTS[process],
        env={
            **os.environ,
            **ENVIRONMENT,
            "PORT": str(ports.choose(taken=set())),
            "OKURU_PROCESSORS": module,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())]),
        },
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode not in (0, None)
    said = done.stdout + done.stderr
    [line] = [line for line in said.splitlines() if "OKURU_PROCESSORS" in line]
    assert module in line
    assert "Traceback" not in said


def test_a_process_with_a_good_module_starts(
    tmp_path: Path, write: Callable[[str, str], None]
) -> None:
    write("good_pkg", GOOD.format(job_type="mine"))
    code = (
        "from tasks import celery; from app.jobs import processors; print(processors.find('mine'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            **ENVIRONMENT,
            "OKURU_PROCESSORS": " good_pkg ,",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())]),
        },
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "job_type='mine'" in done.stdout
