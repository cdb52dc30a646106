"""Processes share no connection: the answer to one would reach another."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlsplit

import psutil

from okuru.stack.stack import Stack
from tests.acceptance.client import Client, wait_until


def test_no_two_processes_of_a_worker_share_a_connection(stack: Stack, client: Client) -> None:
    """A pool is forked: what its parent had opened before, its children have too."""
    gifts = [client.create_and_send() for _ in range(8)]
    assert client.wait_until_final(gifts, within=60) == {"SENT": 8}
    worker = psutil.Process(stack.processes["worker"].pid)
    ports = {
        urlsplit(stack.environment[name]).port for name in ("DATABASE_URL", "AWS_ENDPOINT_URL")
    }

    def shared() -> list[object]:
        used = Counter(
            (each.laddr, each.raddr)
            for process in [worker, *worker.children()]
            for each in process.net_connections("tcp")
            if each.raddr and each.raddr.port in ports
        )
        assert used, "the worker has connections"
        return [each for each, times in used.items() if times > 1]

    # An inherited socket is closed as soon as its child makes its own.
    wait_until(lambda: not shared(), within=5, what="each process has its own")
