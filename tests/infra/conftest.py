"""What stands around the code: Terraform, the container, the workflows, the migrations.

Their tools are programs. Where one is absent its tests are skipped, and the reason is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import requests

from okuru.stack import ports
from tests.acceptance.client import wait_until
from tests.infra.terraform import State, Terraform

#: Where `make infra-test` puts the linters.
LINTERS = Path(sys.prefix) / "emulators" / "infra" / "bin"


def absent(what: str) -> NoReturn:
    """Skip, with the reason; or fail, where somebody has said that nothing may be absent."""
    if os.environ.get("INFRA_TOOLS") == "required":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Where a program is; skips the test if it is nowhere."""

    def find(name: str) -> str:
        path = shutil.which(name, path=os.pathsep.join([str(LINTERS), os.environ["PATH"]]))
        if path is None:
            absent(f"{name} is not installed (make infra-test installs the linters)")
        return path

    return find


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an emulator of AWS."""
    port = ports.choose(set())
    url = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("aws") / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    http = requests.Session()
    http.trust_env = False

    def answers() -> bool:
        assert process.poll() is None, "the emulator has ended"
        try:
            return http.get(f"{url}/moto-api/", timeout=5).ok
        except requests.ConnectionError:
            return False

    wait_until(answers, within=60, what="the emulator answers")
    yield url
    process.terminate()
    process.wait(10)
    log.close()


@pytest.fixture(scope="session")
def terraform(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform with its provider; skips the test if there is no way to get that."""
    made = Terraform(tool("terraform"), tmp_path_factory.mktemp("terraform"))
    done = made.init("-lockfile=readonly")
    if done.returncode and not os.environ.get("TF_PLUGIN_DIR"):
        absent(
            "Terraform's provider cannot be fetched (TF_PLUGIN_DIR names a mirror of it): "
            + " ".join(done.stderr.split())[:200]
        )
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="session")
def prod(terraform: Terraform) -> State:
    """What production would consist of, with everything that can be switched on."""
    return terraform.environment("prod")


@pytest.fixture(scope="session", params=["dev", "prod"])
def state(request: pytest.FixtureRequest, terraform: Terraform) -> State:
    """What each environment would consist of."""
    return terraform.environment(request.param)
