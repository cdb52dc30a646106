"""The environment variables of the stack's processes."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from okuru.stack.ports import LOOPBACK

REGION = "ap-northeast-1"

# What the caller may set otherwise. Retries and sweeps are fast: a demo takes seconds.
DEFAULTS = {
    "ENVIRONMENT": "local",
    "HOST": LOOPBACK,
    "AWS_REGION": REGION,
    "LOG_LEVEL": "INFO",
    # For the files; the terminal shows the lines in a readable form.
    "LOG_FORMAT": "json",
    "RETRY_SCALE": "0.02",
    "POLL_WAIT": "3",
    "SWEEP_INTERVAL": "2",
    "WORKER_COUNT": "4",
    "SENDER": "simulated",
    "SEND_FAILURE_RATE": "0.2",
    "DD_TRACE_ENABLED": "false",
}

# With the emulator, the caller's own AWS account is not to be touched.
LOCAL_AWS = {
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
}
FOREIGN_AWS = ("AWS_PROFILE", "AWS_SESSION_TOKEN")

# What others need to use the stack, in the order in which the env file has it.
_PUBLISHED = (
    "DATABASE_URL",
    "REDIS_URL",
    "AWS_ENDPOINT_URL",
    *LOCAL_AWS,
    "QUEUE_URL_PREFIX",
    "ENVIRONMENT",
    "RETRY_SCALE",
)


def chosen_by_user(environ: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the user has set.

    A shell that has read the env file of an earlier run carries the addresses of the stack itself
    (`own`), which ask for nothing to be replaced.
    """
    return {name: value for name, value in environ.items() if value and own.get(name) != value}


def bypass_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep calls to the loopback interface away from any proxy."""
    known = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    hosts = [host for host in known.split(",") if host]
    hosts += [host for host in (LOOPBACK, "localhost") if host not in hosts]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))


def for_processes(chosen: Mapping[str, str], parts: Mapping[str, str]) -> dict[str, str]:
    """Return the common environment: the user's choice, the defaults, and the parts' addresses."""
    environment = {**DEFAULTS, **chosen, **parts, **bypass_proxy(chosen)}
    if "AWS_ACCESS_KEY_ID" in parts:
        for name in FOREIGN_AWS:
            environment.pop(name, None)
    # The programs of the Procfile, also when the virtual environment is not activated.
    programs = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([programs, chosen.get("PATH", os.defpath)])
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def for_env_file(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of it `$OKURU_HOME/env` has."""
    return {name: environment[name] for name in _PUBLISHED if name in environment}
