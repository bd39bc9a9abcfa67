"""One service and one process of real clients for all interop tests that do not restart them."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`tmi serve --dev` with its embedded Postgres."""
    with Service(tmp_path_factory.mktemp("interop") / "data") as service:
        yield service


@pytest.fixture(scope="session")
def driver() -> Iterator[NodeDriver]:
    """The JavaScript clients."""
    with NodeDriver() as driver:
        yield driver


@pytest.fixture
async def rest(service: Service) -> AsyncIterator[Rest]:
    """The service's REST side."""
    async with Rest(service.url) as rest:
        yield rest
