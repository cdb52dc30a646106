"""What the runner asks a contender to do."""

import os
import time
from collections.abc import Callable, Sequence

QUEUE_URL = os.environ["BENCH_QUEUE_URL"]
QUEUE = QUEUE_URL.rsplit("/", 1)[-1]
REGION = os.environ["AWS_REGION"]
PROCESSES = int(os.environ["BENCH_PROCESSES"])


def answer(
    arguments: Sequence[str], publish: Callable[[int], None], work: Callable[[], None]
) -> None:
    """`publish N` prints the seconds that it took, without the start of the interpreter."""
    if arguments[0] == "work":
        work()
        return
    started = time.perf_counter()
    publish(int(arguments[1]))
    print(time.perf_counter() - started)  # noqa: T201 - for the runner
