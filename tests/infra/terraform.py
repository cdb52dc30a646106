"""Terraform on this repository's `terraform/`, without AWS: what a mocked provider makes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
ROOT = PROJECT / "terraform"
#: What people start and enter: a task, and no process of the Procfile.
OPERATOR = "operator"


@dataclass(frozen=True)
class Resource:
    address: str
    type: str
    values: dict[str, Any]

    @property
    def index(self) -> str:
        """What stands in the first brackets: `web` of module.service["web"].aws_iam_role.task."""
        return self.address.partition('["')[2].partition('"]')[0]


@dataclass(frozen=True)
class State:
    """What one `run` of a test file has made."""

    document: dict[str, Any]

    @cached_property
    def resources(self) -> list[Resource]:
        return list(_resources(self.document["root_module"]))

    @property
    def outputs(self) -> dict[str, Any]:
        return {name: each["value"] for name, each in self.document["outputs"].items()}

    def of(self, *types: str) -> list[Resource]:
        return [each for each in self.resources if each.type in types]

    def at(self, address: str) -> dict[str, Any]:
        """The values of one resource."""
        return next(each.values for each in self.resources if each.address == address)

    def below(self, address: str) -> dict[str, dict[str, Any]]:
        """{index: values} of a resource that there may be any number of."""
        return {
            each.index: each.values
            for each in self.resources
            if each.address == address or each.address.startswith(f"{address}[")
        }

    def containers(self) -> dict[str, list[dict[str, Any]]]:
        """{process: what runs in its task}."""
        return {
            each.index: json.loads(each.values["container_definitions"])
            for each in self.of("aws_ecs_task_definition")
        }

    def process_container(self, process: str) -> dict[str, Any]:
        return next(each for each in self.containers()[process] if each["name"] == process)

    def variables(self, process: str) -> dict[str, str]:
        """The environment of a process, but for its secrets."""
        container = self.process_container(process)
        return {each["name"]: each["value"] for each in container["environment"]}

    def statements(self, role: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """(address of the policy, statement) of every policy whose address ends so."""
        for each in self.of("aws_iam_role_policy"):
            if role in each.address:
                for statement in json.loads(each.values["policy"])["Statement"]:
                    yield each.address, statement


def _resources(module: dict[str, Any]) -> Iterator[Resource]:
    for each in module.get("resources", []):
        if each["mode"] == "managed":
            yield Resource(each["address"], each["type"], each["values"])
    for child in module.get("child_modules", []):
        yield from _resources(child)


@dataclass(frozen=True)
class Tested:
    """What `terraform test` said of one file."""

    runs: dict[str, str]
    """{run: pass, fail, error, skip}."""
    states: dict[str, State]
    said: str


class Terraform:
    """The program in `terraform/`; what it downloads and links is in a folder of its own."""

    def __init__(self, program: str, data: Path, *, root: Path = ROOT) -> None:
        self._program = program
        self._data = data
        self._root = root
        # A mirror in the caller's configuration may serve; their variables and arguments may not.
        foreign = ("TF_VAR_", "TF_CLI_ARGS", "TF_WORKSPACE", "TF_LOG", "AWS_")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "TF_DATA_DIR": str(data),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }
        self._tested: dict[str, Tested] = {}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *arguments], cwd=self._root, env=self._environment, text=True,
            capture_output=True, check=False, timeout=900,
        )  # fmt: skip

    def at(self, root: Path) -> Terraform:
        """The same, with the same provider, on a copy of `terraform/`."""
        return Terraform(self._program, self._data, root=root)

    def init(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Link the provider from TF_PLUGIN_DIR, or fetch it if that is not set."""
        mirror = os.environ.get("TF_PLUGIN_DIR")
        return self(
            "init", "-backend=false", "-input=false", "-no-color", *options,
            *([f"-plugin-dir={mirror}"] if mirror else []),
        )  # fmt: skip

    def test(self, name: str) -> Tested:
        """Run `terraform/tests/NAME.tftest.hcl`, once."""
        if name not in self._tested:
            self._tested[name] = self._test(name)
        return self._tested[name]

    def environment(self, name: str) -> State:
        """What an environment would consist of: the run of that name, in the file of that name."""
        tested = self.test(name)
        assert name in tested.states, tested.said
        return tested.states[name]

    def _test(self, name: str) -> Tested:
        done = self("test", "-json", "-verbose", f"-filter=tests/{name}.tftest.hcl")
        # Plans, of 13 MB each, are not asked for; whatever is no JSON is a warning.
        lines = [
            json.loads(line)
            for line in done.stdout.splitlines()
            if line.startswith("{") and not line.endswith('"type":"test_plan"}')
        ]
        return Tested(
            runs={
                each["@testrun"]: each["test_run"]["status"]
                for each in lines
                if each["type"] == "test_run" and each["test_run"]["progress"] == "complete"
            },
            states={
                each["@testrun"]: State(each["test_state"])
                for each in lines
                if each["type"] == "test_state"
            },
            said="\n".join(_said(lines)) + done.stderr,
        )


def _said(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    for each in lines:
        if each["type"] == "diagnostic":
            said = each["diagnostic"]
            yield f"{each.get('@testrun', '')}: {said['summary']}: {said['detail']}"
