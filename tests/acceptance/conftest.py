"""The processes of the Procfile on real servers, for tests that kill them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from okuru.stack.home import Home
from okuru.stack.stack import Stack
from tests.acceptance.client import Client


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = Home(tmp_path_factory.mktemp("stack"))
    # The parts are the stack's own, and not those that the other tests are pointed at.
    own = {"AWS_PROFILE": "my-account", "AWS_SESSION_TOKEN": "my-token"}
    processors = {
        "OKURU_PROCESSORS": "tests.acceptance.processors",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environ = {"PATH": os.environ["PATH"], "SEND_FAILURE_RATE": "0", **processors, **own}
    with Stack(home, environ=environ) as stack:  # durable: a test stops the database at once
        stack.processes.start()
        stack.wait_until_ready()
        yield stack
    home.forget_data()  # as root it lies elsewhere


@pytest.fixture
def stack(running_stack: Stack) -> Iterator[Stack]:
    """The stack with every process alive, before the test and after it."""
    yield running_stack
    running_stack.restart_dead_servers()
    running_stack.wait_until_ready()


@pytest.fixture
def client(stack: Stack) -> Client:
    return Client(stack.api_url, stack.keys["API_KEY"])
