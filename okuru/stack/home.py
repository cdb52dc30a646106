"""The folder that holds everything a local stack remembers."""

import fcntl
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from okuru.stack import ports
from okuru.stack.errors import StackError

PROJECT = Path(__file__).parents[2]


class Home:
    """A folder with the data, logs, addresses and secrets of one stack.

    Two homes have nothing in common, so their stacks run side by side. Files that hold secrets have
    mode 0600; the folder itself stays open to traversal, because PostgreSQL, which refuses to run
    as root, may have to reach its data in it as another user.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.env_file = self.path / "env"
        self.run = self.path / "run"
        self._state_file = self.path / "state.json"
        self._lock_file = self.path / "lock"

    @classmethod
    def from_environment(cls) -> "Home":
        """The home that OKURU_HOME names; by default `.local` in the project."""
        return cls(Path(os.environ.get("OKURU_HOME") or PROJECT / ".local"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it exclusively: one stack in one home.

        Raises StackError if another process holds it. The kernel lets go of the lock when its
        holder dies, however it dies.
        """
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._lock_file.touch()
        except OSError as error:
            raise StackError(
                f"{self.path} cannot be used ({error.strerror}). Name another folder: OKURU_HOME=…"
            ) from error
        with self._lock_file.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise StackError(
                    f"a stack already runs in {self.path} (process {lock.read() or 'unknown'}). "
                    "Stop it there with Ctrl-C, or name another folder: OKURU_HOME=…"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def is_in_use(self) -> bool:
        """Whether a stack runs in this home now."""
        if not self._lock_file.exists():
            return False
        try:
            with self.locked():
                return False
        except StackError:
            return True

    def recall(self, name: str) -> Any:
        """Return what was remembered under the name, or None."""
        try:
            return self._state().get(name)
        except FileNotFoundError:
            return None

    def remember(self, name: str, value: object) -> None:
        """Keep a JSON value for the runs to come."""
        try:
            state = self._state()
        except FileNotFoundError:
            state = {}
        write_private(self._state_file, json.dumps({**state, name: value}, indent=2))

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text())
        except ValueError:
            raise StackError(
                f"{self._state_file} is damaged, and with it the database's password: "
                f"delete {self.path} and start again"
            ) from None
        return state

    def port(self, name: str) -> int:
        """Return the port that the name had before, or a new one if that is not free now."""
        remembered: dict[str, int] = self.recall("ports") or {}
        port = remembered.get(name)
        if port is None or not ports.is_free(port):
            port = ports.choose(taken=set(remembered.values()))
            self.remember("ports", {**remembered, name: port})
        return port

    def secret(self, name: str) -> str:
        """Return a random secret, the same for the life of the home."""
        known: dict[str, str] = self.recall("secrets") or {}
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            self.remember("secrets", known)
        return known[name]

    def forget_data(self) -> None:
        """Remove the data of the servers; addresses and secrets stay.

        PostgreSQL may keep its data elsewhere, with a symbolic link in its place.
        """
        for name in ("postgres", "sqs"):
            folder = self.path / name
            if folder.is_symlink():
                shutil.rmtree(folder.readlink(), ignore_errors=True)
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        self.env_file.unlink(missing_ok=True)

    def log_path(self, name: str) -> Path:
        """Where the output of a process of the stack goes."""
        return self.path / "log" / f"{name}.log"

    def fresh_log(self, name: str) -> Path:
        """Return where to log to, with nothing there; the log of the run before is `NAME.log.1`."""
        path = self.log_path(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            path.replace(path.with_suffix(".log.1"))
        return path

    def write_env(self, variables: Mapping[str, str]) -> None:
        """Write the addresses and keys of the running stack, for `. $OKURU_HOME/env`."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        write_private(self.env_file, "".join(lines))

    def read_env(self) -> dict[str, str]:
        """Return what `write_env` wrote last; empty if it never did."""
        if not self.env_file.exists():
            return {}
        words = shlex.split(self.env_file.read_text(), comments=True)
        return dict(word.split("=", 1) for word in words if word != "export")


def write_private(path: Path, text: str) -> None:
    """Replace a file with one that only its owner can read, never leaving half of it."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
