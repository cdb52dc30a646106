"""Each command of docs/runbook.md that works on the local stack, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from okuru.drill.command import run_command
from okuru.drill.runbook import commands
from okuru.stack.stack import Stack
from tests.acceptance.client import Client

LOCAL = list(dict.fromkeys(each.line for each in commands() if each.is_local))
#: What some change, changed back.
UNDONE = ("celery -A tasks control pool_shrink 4", "celery -A tasks control add_consumer gifts")


@pytest.fixture
def undone(stack: Stack) -> Iterator[None]:
    yield
    for line in UNDONE:
        code, output = run_command(line, stack)
        assert code == 0, output


def test_every_local_command_of_the_page_works(stack: Stack, client: Client, undone: None) -> None:
    client.wait_until_final([client.create_and_send()], within=75)
    assert {"okuru", "celery", "curl"} == {line.split()[0] for line in LOCAL}
    for line in LOCAL:
        code, output = run_command(line, stack)
        assert code == 0, f"$ {line}\n{output}"
