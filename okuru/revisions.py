"""A task definition's revision: with another image, and what two of them differ in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

#: A tag of each revision that a deploy registers: what its service ran before. So a rollback asks
#: nobody, and a revision that failed, or that Terraform has registered since, is not in its way.
PREVIOUS = "okuru:previous"
#: Another: which deploy. Sorts by time. So a rollback takes back what one deploy has done, however
#: far that came, and does nothing when it is given again.
DEPLOY = "okuru:deploy"
#: What a task may do in AWS, and what is done for it before it starts.
ROLES = ("taskRoleArn", "executionRoleArn")


def short(revision: str) -> str:
    """`family:12` of a task definition's ARN."""
    return revision.rpartition("/")[2]


@dataclass(frozen=True)
class Revision:
    """A revision as ECS knows it."""

    arn: str
    definition: Mapping[str, Any]
    """What can be registered, and nothing that ECS itself adds."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return short(self.arn)

    @property
    def containers(self) -> dict[str, dict[str, Any]]:
        """Its containers, by name."""
        return {each["name"]: each for each in self.definition["containerDefinitions"]}

    @property
    def previous(self) -> str | None:
        """What its service ran before, if a deploy has registered it."""
        return self.tags.get(PREVIOUS)

    @property
    def deploy(self) -> str | None:
        """The deploy that has registered it, if one has."""
        return self.tags.get(DEPLOY)

    def with_image(self, process: str, image: str, version: str) -> Revision:
        """The same, to be registered, with the process's image, and everywhere the version."""
        definition = deepcopy(dict(self.definition))
        for container in definition["containerDefinitions"]:
            if container["name"] == process:
                container["image"] = image
            _set_version(container, version)
        return replace(self, definition=definition)


def _set_version(container: dict[str, Any], version: str) -> None:
    """Traces, metrics and logs carry the version, wherever the template says one."""
    for variable in container.get("environment", []):
        if variable["name"] == "DD_VERSION":
            variable["value"] = version
    labels = container.get("dockerLabels", {})
    if "com.datadoghq.tags.version" in labels:
        labels["com.datadoghq.tags.version"] = version


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in two revisions."""

    text: str
    grave: bool = False
    """Whether it changes who runs there: a role, or a container."""


def differences(before: Revision, after: Revision) -> list[Difference]:
    """What is not the same in two revisions: roles and containers first."""
    old, new = before.containers, after.containers
    found = [
        *(
            Difference(f"the container {name} is gone", grave=True)
            for name in old
            if name not in new
        ),
        *(
            Difference(f"the container {name} is new, with {new[name].get('image')}", grave=True)
            for name in new
            if name not in old
        ),
        *(
            Difference(text, grave=path in ROLES)
            for path, text in _changes(_task(before), _task(after))
        ),
        *(
            Difference(f"{name}: {text}")
            for name in old
            if name in new
            for _, text in _changes(old[name], new[name])
        ),
    ]
    return sorted(found, key=lambda each: not each.grave)


def _task(revision: Revision) -> dict[str, Any]:
    definition = dict(revision.definition)
    del definition["containerDefinitions"]
    return definition


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each path whose value is another, and what to say of it."""
    old, new = dict(_paths("", before)), dict(_paths("", after))
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) == new.get(path):
            continue
        if path.startswith("environment."):  # by its name: a log is no place for values
            said = "is gone" if path not in new else "is new" if path not in old else "changes"
            yield path, f"{path} {said}"
        else:
            yield path, f"{path}: {old.get(path, 'nothing')} → {new.get(path, 'nothing')}"


def _paths(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each value in it by its path: `cpu`, `environment.LOG_LEVEL`, `healthCheck.command`."""
    if isinstance(value, list):
        names = [each.get("name") if isinstance(each, dict) else None for each in value]
        if None not in names and len(set(names)) == len(names):  # their order means nothing
            value = {each["name"]: each.get("value", each) for each in value}
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _paths(f"{path}.{name}" if path else name, each)
    elif value is not None:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
