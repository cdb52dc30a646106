"""The module of the queues, applied for real to the local SQS, and taken away again.

Four minutes, nearly all of them idle: the provider waits 25 s after each thing that it makes, and
45 s after each that it destroys, to be sure that AWS has settled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from okuru.stack.environment import LOCAL_AWS, REGION
from okuru.stack.home import PROJECT, Home
from okuru.stack.sqs import Sqs
from tasks.engine.catalogue import Catalogue
from tests.infra.terraform import ROOT, Terraform

CATALOGUE = Catalogue.load("")
#: All at once: what is waited for costs nothing.
AT_ONCE = "-parallelism=40"

#: What a module needs around it. The emulator has queues, and nothing else.
AROUND = """
provider "aws" {{
  region                      = "{region}"
  access_key                  = "local"
  secret_key                  = "local"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true

  endpoints {{
    sqs = "{url}"
  }}
}}

module "messaging" {{
  source = "{module}"
  prefix = "okuru-"
  queues = jsondecode(file("{catalogue}"))
  alarms = false
}}
"""


@pytest.fixture(scope="module")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqs]:
    """An SQS of our own: the other tests' has these queues already."""
    home = Home(tmp_path_factory.mktemp("messaging"))
    with home.locked():
        server = Sqs(home)
        server.start()
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def applied(
    terraform: Terraform,
    tool: Callable[[str], str],
    sqs: Sqs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Terraform]:
    """`terraform` is here for its skip: it has found the provider, or says why not."""
    root = tmp_path_factory.mktemp("root")
    (root / "main.tf").write_text(
        AROUND.format(
            region=REGION,
            url=sqs.url,
            module=ROOT / "modules" / "messaging",
            catalogue=PROJECT / "tasks" / "engine" / "queues.json",
        )
    )
    (root / ".terraform.lock.hcl").write_text((ROOT / ".terraform.lock.hcl").read_text())
    made = Terraform(tool("terraform"), root / "data", root=root)
    _succeeds(made.init("-lockfile=readonly"))
    try:
        _succeeds(made("apply", "-auto-approve", "-no-color", "-input=false", AT_ONCE))
        yield made
    finally:
        _succeeds(made("destroy", "-auto-approve", "-no-color", "-input=false", AT_ONCE))
    assert _queues(sqs) == []


def _succeeds(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def _queues(sqs: Sqs) -> list[str]:
    client = boto3.client("sqs", endpoint_url=sqs.url, region_name=REGION)
    return sorted(client.list_queues(QueueNamePrefix="okuru-").get("QueueUrls", []))


def test_the_queues_of_the_catalogue_exist(applied: Terraform, sqs: Sqs) -> None:
    catalogue = Catalogue.load(sqs.queue_url_prefix)

    assert _queues(sqs) == sorted(
        catalogue.url(name) for queue in CATALOGUE for name in (queue.name, queue.dead_letter_queue)
    )


def test_okuru_queues_check_finds_no_difference(applied: Terraform, sqs: Sqs) -> None:
    environment = {
        **os.environ,
        **LOCAL_AWS,
        "ENVIRONMENT": "local",
        "AWS_ENDPOINT_URL": sqs.url,
        "QUEUE_URL_PREFIX": sqs.queue_url_prefix,
        "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
    }
    done = subprocess.run(
        [str(Path(sys.executable).parent / "okuru"), "queues", "check"], env=environment,
        cwd=PROJECT, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CATALOGUE.queues)} queues are as the catalogue declares them" in done.stdout


def test_a_message_that_always_fails_gets_into_its_dead_letter_queue(
    applied: Terraform, sqs: Sqs
) -> None:
    client = boto3.client("sqs", endpoint_url=sqs.url, region_name=REGION)
    url = sqs.queue_url_prefix + "gifts"
    client.send_message(QueueUrl=url, MessageBody="poison")
    for _ in range(CATALOGUE["gifts"].max_receive_count):
        received = client.receive_message(QueueUrl=url, VisibilityTimeout=0, WaitTimeSeconds=1)
        assert [each["Body"] for each in received["Messages"]] == ["poison"]
    assert not client.receive_message(QueueUrl=url).get("Messages")

    dead = client.receive_message(QueueUrl=f"{url}-dlq", WaitTimeSeconds=1)
    assert [each["Body"] for each in dead["Messages"]] == ["poison"]


def test_only_its_own_queue_may_bury_messages_and_nobody_speaks_without_tls(
    applied: Terraform, sqs: Sqs
) -> None:
    client = boto3.client("sqs", endpoint_url=sqs.url, region_name=REGION)
    names = ["QueueArn", "RedriveAllowPolicy", "Policy"]
    for queue in CATALOGUE:
        live, dead = (
            client.get_queue_attributes(
                QueueUrl=sqs.queue_url_prefix + name,
                AttributeNames=names,  # type: ignore[arg-type]
            )["Attributes"]
            for name in (queue.name, queue.dead_letter_queue)
        )

        allowed = json.loads(dead["RedriveAllowPolicy"])  # type: ignore[typeddict-item]
        assert allowed["sourceQueueArns"] == [live["QueueArn"]]
        for each in (live, dead):
            (statement,) = json.loads(each["Policy"])["Statement"]
            assert statement["Effect"] == "Deny"
            assert statement["Resource"] == each["QueueArn"]


def test_applying_again_changes_nothing(applied: Terraform) -> None:
    done = applied("plan", "-detailed-exitcode", "-no-color", "-input=false", AT_ONCE)

    assert done.returncode == 0, done.stdout
