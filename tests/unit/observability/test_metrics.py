"""`/metrics` while processes come and go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from app.observability import metrics


def test_a_file_that_a_process_is_just_making_is_read_when_it_is_made() -> None:
    metrics.SIGNUPS.inc()
    before = metrics.exposition()
    fresh = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / "counter_4194304.db"
    fresh.touch()
    # What prometheus_client does next: the size, and then that eight bytes of it are used.
    threading.Timer(0.03, lambda: fresh.write_bytes(b"\x08" + b"\0" * 65535)).start()
    try:
        assert metrics.exposition() == before
    finally:
        fresh.unlink()
