"""Where things are, and what every process of a run has in common."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from okuru.stack.environment import LOCAL_AWS, REGION, bypass_proxy
from okuru.stack.home import PROJECT

__all__ = ["BENCH", "HERE", "LOCAL_AWS", "PROCESSES", "PROGRAMS", "PROJECT", "REGION"]

HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent
#: The virtual environment of requirements/bench.txt.
BENCH = Path(sys.prefix) / "emulators" / "bench"
#: Processes of each consumer: as many as WORKER_COUNT is by default.
PROCESSES = 4
#: Of the web server: one a core of the smallest machine, as WEB_PROCESSES is by default.
WEB_PROCESSES = 2


def common() -> dict[str, str]:
    """Nothing of the caller's AWS account, proxies or settings."""
    return {
        **LOCAL_AWS,
        **bypass_proxy({}),
        "PATH": os.pathsep.join([str(PROGRAMS), os.defpath]),
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONUNBUFFERED": "1",
        "DD_TRACE_ENABLED": "false",
        "AWS_EC2_METADATA_DISABLED": "true",
        "BENCH_PROCESSES": str(PROCESSES),
    }


def application(database_url: str, sqs_url: str, queue_url_prefix: str) -> dict[str, str]:
    """For the processes of Okuru: production's defaults, and a sender that never fails."""
    return {
        **common(),
        "ENVIRONMENT": "local",
        "HOST": "127.0.0.1",
        "LOG_FORMAT": "json",
        "DATABASE_URL": database_url,
        # Nobody listens there: no measured path needs Valkey.
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "AWS_ENDPOINT_URL": sqs_url,
        "QUEUE_URL_PREFIX": queue_url_prefix,
        "WORKER_COUNT": str(PROCESSES),
        "WEB_PROCESSES": str(WEB_PROCESSES),
        "SENDER": "simulated",
        "SEND_FAILURE_RATE": "0",
    }
