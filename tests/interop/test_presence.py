"""Awareness among all kinds of clients: everybody sees everybody, leavers are gone at once."""

import time

from tests.harness.kinds import KINDS, spec_of
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import Service

GONE_MS = 1000
SLACK_MS = 1000


async def gather(driver: NodeDriver, rest: Rest, service: Service) -> dict[str, int]:
    """One client of each kind in a new room, each with presence; returns their Yjs ids by name."""
    alice = await rest.sign_in("alice")
    place = await rest.create_place(alice)
    token = await rest.collab_token(alice)
    tag = str(time.monotonic_ns())
    specs = [
        spec_of(kind, f"{kind}-{tag}", service.collab, place.diagram, token, seed=index, socket=tag)
        for index, kind in enumerate(KINDS)
    ]
    names = [spec["client"] for spec in specs]
    ids = dict(zip(names, await driver.open(specs), strict=True))
    await driver.wait(names, "synced")
    for name in names:
        await driver.call("presence", name=name, state={"user": {"name": name}})
    await driver.call("wait_awareness", names=names, present=list(ids.values()), timeout_ms=20_000)
    return ids


async def leave_one_by_one(driver: NodeDriver, ids: dict[str, int]) -> None:
    remaining = dict(ids)
    while len(remaining) > 1:
        name, gone = remaining.popitem()
        await driver.close([name])
        await driver.call(
            "wait_awareness", names=list(remaining), absent=[gone], timeout_ms=GONE_MS + SLACK_MS
        )
    await driver.close(list(remaining))


async def test_all_see_all_and_each_departure_is_seen_at_once(
    driver: NodeDriver, rest: Rest, service: Service
) -> None:
    ids = await gather(driver, rest, service)
    states = (await driver.report(next(iter(ids))))["awareness"]
    assert {str(ids[name]): {"user": {"name": name}} for name in ids} == states
    await leave_one_by_one(driver, ids)


async def test_a_dropped_socket_is_a_departure_and_presence_returns_with_the_reconnect(
    driver: NodeDriver, rest: Rest, service: Service
) -> None:
    ids = await gather(driver, rest, service)
    names = list(ids)
    watcher = names[0]
    for name in names[1:4]:
        await driver.call("offline", names=[name])
        await driver.call(
            "wait_awareness", names=[watcher], absent=[ids[name]], timeout_ms=GONE_MS + SLACK_MS
        )
        await driver.call("online", names=[name])
        await driver.call("wait_awareness", names=[watcher], present=[ids[name]], timeout_ms=20_000)
    for name in names[1:4]:
        await driver.call("drop", names=[name])
    await driver.call("wait_awareness", names=names, present=list(ids.values()), timeout_ms=20_000)
    await leave_one_by_one(driver, ids)


async def test_the_last_cursor_of_many_is_what_others_see(
    driver: NodeDriver, rest: Rest, service: Service
) -> None:
    ids = await gather(driver, rest, service)
    first, second = list(ids)[:2]
    for x in range(50):
        await driver.call("presence", name=first, state={"cursor": x})
    deadline = time.monotonic() + 20
    while (await driver.report(second))["awareness"][str(ids[first])] != {"cursor": 49}:
        assert time.monotonic() < deadline
    await driver.close(list(ids))
