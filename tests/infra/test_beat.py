"""Terraform gives beat no way to the database: it starts and does its work without one."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from okuru import procfile
from okuru.stack.environment import REGION
from tasks.engine.catalogue import Catalogue
from tests.acceptance.client import wait_until
from tests.infra.terraform import PROJECT

COMMAND = shlex.split(procfile.read()["beat"])


def test_beat_needs_a_password_to_start_and_speaks_with_no_database(
    sqs_url: str, worker_id: str, tmp_path: Path
) -> None:
    sqs = boto3.client("sqs", endpoint_url=sqs_url, region_name=REGION)
    prefix = f"{sqs_url}/000000000000/beat-{worker_id}-"
    sweeps = Catalogue.load(prefix).url("maintenance")
    sqs.create_queue(QueueName=sweeps.rpartition("/")[2])
    with socket.create_server(("127.0.0.1", 0)) as door:  # where a database would be
        door.setblocking(False)
        environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            "PYTHONPATH": str(PROJECT),
            "ENVIRONMENT": "production",
            "AWS_ENDPOINT_URL": sqs_url,
            "QUEUE_URL_PREFIX": prefix,
            "SWEEP_INTERVAL": "0.1",
            "DATABASE_URL": f"postgresql+psycopg2://okuru@127.0.0.1:{door.getsockname()[1]}/okuru",
        }
        refused = subprocess.run(
            ["env", *COMMAND], cwd=PROJECT, env=environment, text=True, capture_output=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert refused.returncode == 1
        assert "DATABASE_URL: production needs a password" in refused.stderr

        with (tmp_path / "log").open("w") as log:
            beat = subprocess.Popen(
                ["env", *COMMAND], cwd=PROJECT, env={**environment, "PGPASSWORD": "q" * 40},
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until(
                lambda: "Messages" in sqs.receive_message(QueueUrl=sweeps),
                within=60,
                what="a sweep is asked for",
            )
            with pytest.raises(BlockingIOError):  # nobody has knocked
                door.accept()
        finally:
            beat.kill()
            beat.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
