"""The drivers themselves, proved against the npm peers: a failure elsewhere is then the service's."""

from collections.abc import Iterator

import pytest

from tests.harness.node import HOCUSPOCUS_KINDS, Y_WEBSOCKET_KINDS, NodeDriver, ReferenceServer, Spec


@pytest.fixture(scope="module")
def driver() -> Iterator[NodeDriver]:
    with NodeDriver() as driver:
        yield driver


@pytest.fixture(scope="module")
def y_websocket_server() -> Iterator[ReferenceServer]:
    with ReferenceServer("y-websocket") as server:
        yield server


@pytest.fixture(scope="module")
def hocuspocus_server() -> Iterator[ReferenceServer]:
    with ReferenceServer("hocuspocus") as server:
        yield server


async def play(driver: NodeDriver, specs: list[Spec]) -> None:
    names = [spec["client"] for spec in specs]
    await driver.open(specs)
    await driver.wait(names, "synced")
    assert await driver.call("play", names=names, steps=30, interruptions=10) > 0
    agreed = await driver.call("agree", groups=[names], timeout_ms=30_000)
    assert [] == agreed["unequal"]
    assert agreed["reports"][0]["state_vector"]
    for name in names:
        assert [] == (await driver.report(name))["violations"]
    await driver.close(names)


async def test_y_websocket_clients_agree_on_the_reference_server(
    driver: NodeDriver, y_websocket_server: ReferenceServer
) -> None:
    await play(
        driver,
        [
            {
                "client": f"{kind}-{number}",
                "kind": kind,
                "url": y_websocket_server.url,
                "room": "r",
                "seed": 7 + number,
                "retry_ms": 100,
            }
            for kind in Y_WEBSOCKET_KINDS
            for number in range(2)
        ],
    )


async def test_hocuspocus_clients_agree_on_the_reference_server(
    driver: NodeDriver, hocuspocus_server: ReferenceServer
) -> None:
    base = {"url": hocuspocus_server.url, "room": "d", "token": "t", "retry_ms": 100}
    own = [{**base, "client": kind, "kind": kind, "seed": seed} for seed, kind in enumerate(HOCUSPOCUS_KINDS)]
    session = [
        {
            **base,
            "client": f"session-{number}",
            "kind": "hocuspocus-4.8",
            "seed": 20 + number,
            "socket": "shared",
            "session_awareness": True,
        }
        for number in range(2)
    ]
    await play(driver, own + session)
    await driver.close([], ["shared"])


async def test_the_clients_share_one_copy_of_yjs(driver: NodeDriver) -> None:
    await driver.call("random", seed=1, count=1)
    assert [] == [line for line in driver.complaints if "already imported" in line]


async def test_a_seed_fixes_the_numbers(driver: NodeDriver) -> None:
    first = await driver.call("random", seed=42, count=5)
    assert first == await driver.call("random", seed=42, count=5)
    assert first != await driver.call("random", seed=43, count=5)
