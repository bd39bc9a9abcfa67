"""What stock clients make of the limits: nothing is lost over a rate, and a full diagram is told plainly."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.harness.kinds import spec_of
from tests.harness.ledger import loaded_by_a_fresh_client
from tests.harness.node import HOCUSPOCUS_KINDS, Y_WEBSOCKET_KINDS, NodeDriver
from tests.harness.rest import Place, Rest
from tests.harness.service import Service
from tests.integration.test_metrics import figures

EDITS = 600
KIB = 1024
LIMITS = {
    "TMI_CLIENT_EDITS_PER_S": "50",
    "TMI_CLIENT_EDITS_BURST": "50",
    "TMI_RATE_PATIENCE_S": "1",
    "TMI_DOCUMENT_MAX_BYTES": str(64 * KIB),
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("limits") / "data", LIMITS) as service:
        yield service


@pytest.fixture
async def table(limited: Service) -> AsyncIterator[tuple[Place, str]]:
    """A diagram of alice's and a token for it."""
    async with Rest(limited.url) as rest:
        alice = await rest.sign_in("alice")
        yield await rest.create_place(alice), await rest.collab_token(alice)


async def opened(driver: NodeDriver, service: Service, kind: str, place: Place, token: str) -> str:
    spec = spec_of(kind, f"{kind}-{time.monotonic_ns()}", service.collab, place.diagram, token)
    await driver.open([spec])
    await driver.wait([spec["client"]], "settled")
    return str(spec["client"])


async def loaded_within(
    timeout_s: float, driver: NodeDriver, service: Service, place: Place, token: str
) -> dict[str, Any]:
    """What a fresh client receives once it is everything: y-websocket 2.1 cannot tell when it is saved."""
    until = time.monotonic() + timeout_s
    while True:
        fresh = await loaded_by_a_fresh_client(driver, service, place, token)
        if len(fresh["content"]["meta"]) == EDITS or time.monotonic() > until:
            return fresh


@pytest.mark.parametrize("kind", [*Y_WEBSOCKET_KINDS, *HOCUSPOCUS_KINDS])
async def test_a_client_over_its_rate_is_closed_1013_comes_back_and_has_all_its_edits_in(
    limited: Service, driver: NodeDriver, table: tuple[Place, str], kind: str
) -> None:
    place, token = table
    before = figures(limited).get(("tmi_refusals_total", "rate"), 0)
    writer = await opened(driver, limited, kind, place, token)
    # So many that the rate has not made up for them within the patience.
    await driver.call("flood_keys", name=writer, edits=EDITS, bytes=10, prefix="key")
    await driver.call("wait_close", name=writer, code=1013, timeout_ms=20_000)
    await driver.wait([writer], "settled", 60)
    fresh = await loaded_within(20, driver, limited, place, token)
    assert {f"key-{n}" for n in range(EDITS)} == set(fresh["content"]["meta"])
    report = await driver.report(writer)
    assert ([1013], []) == ([close["code"] for close in report["closes"]], report["violations"])
    assert before + 1 == figures(limited)["tmi_refusals_total", "rate"]
    await driver.close([writer])


async def test_y_websocket_stops_for_good_at_a_full_diagram(
    limited: Service, driver: NodeDriver, table: tuple[Place, str]
) -> None:
    writer = await opened(driver, limited, "y-websocket-3.1", *table)
    reader = await opened(driver, limited, "hocuspocus-4.8", *table)
    await driver.call("flood_keys", name=writer, edits=3, bytes=30 * KIB, prefix="key")
    await driver.call("wait_close", name=writer, code=4413, timeout_ms=20_000)
    report = await driver.report(writer)
    assert (4413, 1) == (report["closed_finally"], report["opened"])
    fresh = await loaded_by_a_fresh_client(driver, limited, *table)
    assert {"key-0", "key-1"} == set(fresh["content"]["meta"])
    assert [] == (await driver.report(reader))["closes"]
    await driver.close([writer, reader])


@pytest.mark.parametrize("kind", HOCUSPOCUS_KINDS)
async def test_hocuspocus_is_told_why_at_a_full_diagram(
    limited: Service, driver: NodeDriver, table: tuple[Place, str], kind: str
) -> None:
    writer = await opened(driver, limited, kind, *table)
    await driver.call("flood_keys", name=writer, edits=3, bytes=30 * KIB, prefix="key")
    await driver.wait([writer], "denied", 20)
    assert "size limit" in str((await driver.report(writer))["denied"])
    await driver.call("wait_close", name=writer, code=4413, timeout_ms=20_000)
    await driver.close([writer])
