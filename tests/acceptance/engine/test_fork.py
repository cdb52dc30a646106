"""A pool is forked: what its parent had opened before must not be used by its children."""

from __future__ import annotations

from urllib.parse import urlsplit

import psutil

from tests.acceptance.engine.site import Site


def test_no_process_of_a_new_pool_shares_a_connection_to_sqs(site: Site) -> None:
    """The parent has asked SQS about its queues; the answer to one would reach another."""
    worker = site.worker("steady", concurrency=3)
    port = urlsplit(site.proxy.url).port

    def connections(process: psutil.Process) -> set[object]:
        found = process.net_connections("tcp")
        return {each.laddr for each in found if each.raddr and each.raddr.port == port}

    assert site.proxy.count("GetQueueAttributes") > 0
    site.wait_until(lambda: connections(worker.process), within=5, what="it polls")
    site.wait_until(
        lambda: not any(connections(psutil.Process(pid)) for pid in worker.pool()),
        within=5,
        what="its children have no connection",
    )
    assert len(worker.pool()) == 3
