"""The local stack: real servers and the processes of the Procfile, without Docker.

with Stack(Home.from_environment()) as stack:
    stack.processes.start()
    stack.wait_until_ready()
"""

import http.client
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from rich.console import Console

from okuru.stack import environment, provision
from okuru.stack.child import end_leftovers
from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.interruption import Interruption
from okuru.stack.ports import is_free
from okuru.stack.postgres import Postgres
from okuru.stack.process_group import ProcessGroup
from okuru.stack.sqs import Sqs
from okuru.stack.valkey import Valkey

if TYPE_CHECKING:
    from okuru.stack.server import Server

_READY_WITHIN = 60.0


class Stack:
    """The running parts of a home, from PostgreSQL to API keys, and what runs on them.

    A part whose variable the user has set (DATABASE_URL, REDIS_URL, or AWS_ENDPOINT_URL or
    QUEUE_URL_PREFIX) is not started: the stack uses the user's own.

    Attributes that exist once it is entered:
        environment: the variables that all processes have in common.
        keys: API_KEY and ADMIN_API_KEY.
        processes: those of the Procfile, none of them started yet.
        postgres, valkey, sqs: the servers, to be stopped and started by tests; one that the user
            has replaced never runs.
    """

    environment: Mapping[str, str]
    keys: Mapping[str, str]
    processes: ProcessGroup

    def __init__(
        self,
        home: Home,
        *,
        fast: bool = False,
        port: int | None = None,
        console: Console | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Describe a stack.

        Args:
            home: where it keeps its data.
            fast: do without durability: for tests.
            port: of the API; by default PORT, or else a free one.
            console: where to show what the processes say; by default only their files have it.
            environ: what the user has chosen.
        """
        self.home = home
        self.interruption = Interruption()
        self.postgres = Postgres(home, fast=fast)
        self.valkey = Valkey(home)
        self.sqs = Sqs(home)
        self._port = port
        self._console = console
        self._environ = environ
        self._undo = ExitStack()

    @property
    def api_url(self) -> str:
        return f"http://{self.environment['HOST']}:{self.environment['PORT']}"

    def __enter__(self) -> Self:
        """Start the parts.

        Raises StackError if the home is in use or a part does not start, KeyboardInterrupt if the
        user wants it no more; nothing is left running then.
        """
        with ExitStack() as undo:
            undo.enter_context(self.interruption)
            undo.enter_context(self.home.locked())
            self._start(undo)
            self.interruption.check()
            self._undo = undo.pop_all()
        # The last statement: an interruption can only be raised where __exit__ will be called.
        self.interruption.held = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.interruption.held = True
        self._undo.__exit__(kind, error, trace)

    def wait_until_ready(self) -> None:
        """Wait until the API answers that it is ready. Raises StackError if it does not."""
        deadline = time.monotonic() + _READY_WITHIN
        web = self.processes["web"]
        restarts = web.restarts
        while not (web.listens_on(self._api_port) and self._api_is_ready()):
            if web.restarts > restarts + 1 or time.monotonic() > deadline:
                if not web.listens_on(self._api_port):
                    self._require_free_port()
                raise StackError(f"the API is not ready (see {self.home.log_path('web')})")
            time.sleep(0.1)

    def stay(self) -> NoReturn:
        """Stay until KeyboardInterrupt, starting again whatever server dies."""
        while True:
            for server in self.restart_dead_servers():
                self.processes.terminal.say(f"{server} had died; it runs again")
            time.sleep(1)

    def restart_dead_servers(self) -> list[str]:
        """Start again what has died of the servers, and return their names."""
        dead = [server for server in self._servers if not server.child.alive]
        for server in dead:
            with self.interruption.postponed():
                server.start()
            server.wait_until_ready()
            if server is self.sqs:
                # It writes its queues to disk only when it stops in peace.
                provision.create_queues(self.environment)
        return [server.title for server in dead]

    def _start(self, undo: ExitStack) -> None:
        end_leftovers(self.home)
        own = self.home.recall("addresses") or {}
        chosen = environment.chosen_by_user(self._environ, own)
        # Calls of this very process, too: to SQS and the API.
        os.environ.update(environment.bypass_proxy(os.environ))

        self._api_port = self._port or int(chosen.get("PORT") or self.home.port("api"))
        self._require_free_port()
        self._choose_servers(chosen)
        provision.check_settings(
            environment.for_processes({**chosen, "PORT": str(self._api_port)}, self._addresses())
        )

        for server in (self.postgres, self.sqs, self.valkey):
            undo.callback(server.stop)
        self._start_servers()
        addresses = self._addresses()
        self.home.remember("addresses", addresses)

        self.environment = environment.for_processes(
            {**chosen, "PORT": str(self._api_port)}, addresses
        )
        provision.migrate(self.environment["DATABASE_URL"])
        self.interruption.check()
        if self.sqs in self._servers:
            provision.create_queues(self.environment)
        self.keys = provision.ensure_keys(
            self.environment["DATABASE_URL"], previous=self.home.read_env()
        )
        self.home.write_env(
            {
                "API_URL": self.api_url,
                **self.keys,
                **environment.for_env_file(self.environment),
                **provision.queue_urls(self.environment["QUEUE_URL_PREFIX"]),
            }
        )

        self.processes = ProcessGroup(self.home, self.environment, self._console, self.interruption)
        undo.callback(self.processes.stop)

    def _choose_servers(self, chosen: Mapping[str, str]) -> None:
        # The emulator takes longest; PostgreSQL may first have to make its data folder.
        self._servers: list[Server] = []
        if "AWS_ENDPOINT_URL" in chosen and "QUEUE_URL_PREFIX" not in chosen:
            raise StackError("AWS_ENDPOINT_URL is set: set QUEUE_URL_PREFIX, too")
        if "QUEUE_URL_PREFIX" not in chosen:
            self._servers.append(self.sqs)
        if "REDIS_URL" not in chosen:
            self._servers.append(self.valkey)
        if "DATABASE_URL" not in chosen:
            self._servers.append(self.postgres)

    def _start_servers(self) -> None:
        for server in self._servers:
            self.interruption.check()
            server.start()
        for server in self._servers:
            server.wait_until_ready(self.interruption.check)

    def _addresses(self) -> dict[str, str]:
        """The variables that the running servers stand for."""
        addresses: dict[str, str] = {}
        if self.postgres in self._servers:
            addresses["DATABASE_URL"] = self.postgres.url
        if self.valkey in self._servers:
            addresses["REDIS_URL"] = self.valkey.url
        if self.sqs in self._servers:
            addresses |= environment.LOCAL_AWS
            addresses["AWS_ENDPOINT_URL"] = self.sqs.url
            addresses["QUEUE_URL_PREFIX"] = self.sqs.queue_url_prefix
        return addresses

    def _require_free_port(self) -> None:
        port = self._api_port
        if not is_free(port):
            raise StackError(
                f"port {port} is in use, or for root alone. Choose another: PORT={port + 1000}"
            )

    def _api_is_ready(self) -> bool:
        host = self.environment["HOST"]
        connection = http.client.HTTPConnection(host, self._api_port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
