"""One deploy, step by step: `okuru deploy` says in which order, and what happens if one fails."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from okuru.ecs import Cluster, DeployError, Say, Service
from okuru.revisions import Difference, Revision, differences, short

#: A task that people start, and no service: its next start has the same code as everything else.
OPERATOR = "operator"
#: Migrations have no service of their own: the API's task has the database's credentials.
MIGRATOR = "web"
MIGRATE = ["okuru", "migrate", "up"]


@dataclass(frozen=True)
class Change:
    """What a deploy makes of one service."""

    service: Service
    running: Revision
    template: Revision
    """The family's newest: what Terraform has changed of a task goes live with a deploy."""
    wanted: Revision
    """The template with the image and the version."""
    differences: list[Difference]
    """Between what runs and what is wanted, beside the image and the version."""


class Deployment:
    """One deploy, whose steps stand in `deploy`."""

    def __init__(
        self, cluster: Cluster, image: str, version: str, *, timeout: float, say: Say
    ) -> None:
        self._cluster = cluster
        self._image = image
        self._version = version
        self._timeout = timeout
        self._say = say
        self._deadline = time.monotonic() + timeout
        self._changes: dict[str, Change] = {}
        self._made: dict[str, str] = {}
        self._touched: list[str] = []
        self._id = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"

    def plan(self) -> None:
        """Look, and say what runs, what shall, and in what they differ."""
        services = self._cluster.services()
        changing = [name for name, service in services.items() if service.deployments > 1]
        if changing:
            raise DeployError(f"a deployment is under way: {', '.join(changing)}. Try again later")
        for name, service in services.items():
            change = self._changes[name] = self._change(service)
            self._say(f"{name} runs {change.running}, {change.running.containers[name]['image']}")
            for difference in change.differences:
                self._say(f"  {change.template} has another shape: {difference.text}")

    def _change(self, service: Service) -> Change:
        process = service.process
        running = self._cluster.revision(service.revision)
        template = self._cluster.newest(process) or running
        for revision in (running, template):
            if process not in revision.containers:
                raise DeployError(f"{revision} has no container {process}")
        wanted = template.with_image(process, self._image, self._version)
        as_if = running.with_image(process, self._image, self._version)
        return Change(service, running, template, wanted, differences(as_if, wanted))

    def unaccepted(self, accepted: Collection[str]) -> list[str]:
        """The templates with other roles or containers than what runs, unless they are accepted.

        Whoever may register a revision would otherwise decide what goes live with our next deploy.
        """
        refused = []
        for change in self._changes.values():
            grave = [each.text for each in change.differences if each.grave]
            if grave and str(change.template) not in accepted:
                refused.append(
                    f"{change.template} does not run as {change.running} does: {'; '.join(grave)}. "
                    f"If that is meant: --accept-shape {change.template}"
                )
        return refused

    def register(self) -> None:
        """Register what is wanted; nothing runs it yet."""
        self._say(f"registering revisions with {self._image}")
        for name, change in self._changes.items():
            self._made[name] = self._cluster.register(change.wanted, self._id, change.running.arn)

    def register_operator(self) -> None:
        """The task that people start, if the environment has one, has no service that runs it."""
        if template := self._cluster.newest(OPERATOR):
            wanted = template.with_image(OPERATOR, self._image, self._version)
            self._cluster.register(wanted, self._id, None)

    def migrate(self) -> None:
        """Bring the database to the new code's schema, by one task of the new code."""
        revision = self._made[MIGRATOR]
        self._say(f"migrating: `{' '.join(MIGRATE)}` in {short(revision)}")
        service = self._changes[MIGRATOR].service
        self._cluster.run_once(service, revision, MIGRATE, deadline=self._deadline, say=self._say)

    def replace(self, wave: list[str]) -> None:
        """Let the services change to what is wanted, and wait until they have.

        Those that changed before must still run it: a rollback may have come meanwhile.
        """
        self._say(f"updating {', '.join(wave)}")
        for name in wave:
            self._touched.append(name)  # first: the answer may be lost on the way
            self._cluster.update(name, self._made[name])
        made = {name: self._made[name] for name in self._touched}
        self._cluster.wait(made, deadline=self._deadline, say=self._say)

    def go_back(self) -> list[str]:
        """Bring every service that was touched back to what it ran; returns them."""
        back = {name: self._changes[name].running.arn for name in reversed(self._touched)}
        if back:
            deadline = time.monotonic() + self._timeout
            self._cluster.go_to(back, deadline=deadline, say=self._say)
        return list(back)

    def result(self, outcome: str) -> dict[str, Any]:
        """What was looked at and done, for programs."""
        return {
            "environment": self._cluster.environment,
            "image": self._image,
            "version": self._version,
            "services": {
                name: {
                    "from": str(change.running),
                    "image": change.running.containers[name]["image"],
                    "differences": [each.text for each in change.differences],
                    **({"to": short(self._made[name])} if name in self._made else {}),
                }
                for name, change in self._changes.items()
            },
            "outcome": outcome,
        }
