"""An SQS for these tests alone; queues, a proxy and workers for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from okuru.stack.sqs import Sqs
from tests.acceptance.engine.site import Site
from tests.integration.celery_app import running_sqs

#: Makes a site that is closed at the end of the test, or of the module.
MakeSite = Callable[[], Site]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqs]:
    with running_sqs(tmp_path_factory.mktemp("engine-sqs")) as server:
        yield server


@pytest.fixture(scope="module")
def module_sites(server: Sqs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """For what many tests look at."""
    made: list[Site] = []

    def make() -> Site:
        made.append(Site(server, tmp_path_factory.mktemp("site")))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(server: Sqs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(server, tmp_path_factory.mktemp("site"))
    yield site
    site.close()
