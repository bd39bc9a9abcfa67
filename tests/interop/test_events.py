"""Events of a threat model on two nodes, as the stock provider and readers of streams meet them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.rest import Person, Place, Rest, user
from tests.harness.service import Service, running

WITHIN_S = 1.0
SLACK_S = 1.0
"""What a busy machine may add on the test's side."""
PROVIDERS = ("hocuspocus-3.4", "hocuspocus-4.8")


@pytest.fixture
async def nodes(tmp_path: Path, database_url: str, valkey_url: str) -> AsyncIterator[tuple[Service, Service]]:
    environment = {"TMI_REDIS_URL": valkey_url}
    a, b = [Service(tmp_path / name, environment, database_url) for name in "ab"]
    with running(a, b):
        yield a, b


class Threat:
    """A threat, and changes of it by REST."""

    def __init__(self, rest: Rest, person: Person, place: Place) -> None:
        self._rest = rest
        self._person = person
        self._path = f"/threat_models/{place.model}/threats"
        self.id = ""

    async def create(self) -> None:
        body = {"name": "0", "threat_type": ["Spoofing"]}
        answer = await self._rest.http.post(self._path, json=body, headers=self._person.headers)
        assert 201 == answer.status_code, answer.text
        self.id = answer.json()["id"]

    async def rename(self, name: str, rest: Rest | None = None) -> None:
        """By another node than usual, if one is given."""
        answer = await (rest or self._rest).http.patch(
            f"{self._path}/{self.id}",
            json=[{"op": "replace", "path": "/name", "value": name}],
            headers={**self._person.headers, "Content-Type": "application/json-patch+json"},
        )
        assert 200 == answer.status_code, answer.text


async def told(driver: NodeDriver, name: str, count: int, within_s: float = 20) -> list[dict[str, Any]]:
    """All that `onStateless` was called with, once it was called so often."""
    await driver.call("wait_stateless", name=name, count=count, timeout_ms=within_s * 1000)
    messages: list[dict[str, Any]] = (await driver.report(name))["stateless"]
    return messages


@asynccontextmanager
async def stream(
    rest: Rest, person: Person, place: Place, last: str = ""
) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream of events that has begun."""
    headers = {**person.headers, "Last-Event-ID": last}
    async with rest.http.stream("GET", f"/threat_models/{place.model}/events", headers=headers) as answer:
        assert 200 == answer.status_code
        lines = answer.aiter_lines()
        while await anext(lines):
            pass
        yield lines


async def next_event(lines: AsyncIterator[str]) -> tuple[str, dict[str, Any]]:
    async with asyncio.timeout(WITHIN_S + SLACK_S):
        event = [await anext(lines) for _ in range(4)]
    number, kind, data = (line.partition(": ")[2] for line in event[:3])
    assert ("change", "") == (kind, event[3])
    return number, json.loads(data)


async def test_events_reach_another_node_within_a_second_and_outlive_a_node(
    nodes: tuple[Service, Service], driver: NodeDriver
) -> None:
    await _a_change_by_rest_reaches_editors_and_streams_of_another_node(*nodes, driver)
    await _a_stream_is_resumed_at_another_node_when_its_own_is_killed(*nodes)


async def _a_change_by_rest_reaches_editors_and_streams_of_another_node(
    a: Service, b: Service, driver: NodeDriver
) -> None:
    async with Rest(a.url) as at_a, Rest(b.url) as at_b:
        alice, bob = await at_a.sign_in("alice"), await at_a.sign_in("bob")
        place = await at_a.create_place(alice, user("bob", "reader"))
        threat = Threat(at_a, alice, place)
        await threat.create()
        names: dict[str, str] = {}
        # The first is at node a, which owns the room: those at b have a replica of it.
        at_b_too = [(b, bob, PROVIDERS[0]), (b, bob, PROVIDERS[1]), (b, alice, PROVIDERS[1])]
        for service, person, kind in ((a, alice, PROVIDERS[0]), *at_b_too):
            token = await at_a.collab_token(person, place.diagram)
            name = f"{person.name}-{kind}-{len(names)}"
            await driver.open([spec_of(kind, name, service.collab, place.diagram, token, socket=name)])
            await driver.wait([name], "synced")
            names[name] = person.name
        async with stream(at_b, alice, place) as lines:
            await threat.rename("1")
            began = time.monotonic()
            for name in names:
                await told(driver, name, 1, WITHIN_S + SLACK_S)
            waited_s = time.monotonic() - began
            print(f"all were told {1000 * waited_s:.0f} ms after the answer")
            number, data = await next_event(lines)
            expected = {"id": number, "event": "change", "data": data}
            assert (threat.id, "patched") == (data["object_id"], data["change_type"])
            assert [[expected]] * len(names) == [await told(driver, name, 1) for name in names]

            figures = (await at_b.http.get("/metrics")).text.splitlines()
            assert {"tmi_event_streams 1.0", 'tmi_editor_events_total{outcome="told"} 3.0'} <= set(figures)

            # Whoever is removed is told nothing, not even of that.
            await at_a.set_role(alice, place.model, "bob", None)
            await threat.rename("2")
            for name, person_name in names.items():
                if person_name == "alice":
                    assert 3 == len(await told(driver, name, 3))
            of = [(await next_event(lines))[1]["object_type"] for _ in range(2)]
            assert ["threat_model", "threat"] == of
        for name, person_name in names.items():
            if person_name == "bob":
                await driver.wait([name], "denied", WITHIN_S + SLACK_S)
                assert [expected] == await told(driver, name, 1)
        await driver.close(list(names), list(names))


async def _a_stream_is_resumed_at_another_node_when_its_own_is_killed(a: Service, b: Service) -> None:
    async with Rest(a.url) as at_a, Rest(b.url) as at_b:
        alice = await at_a.sign_in("alice")
        place = await at_a.create_place(alice)
        threat = Threat(at_a, alice, place)
        await threat.create()
        async with stream(at_a, alice, place) as lines:
            await threat.rename("1", at_b)
            last, _ = await next_event(lines)
            a.kill()
        for n in range(3):
            await threat.rename(f"while away {n}", at_b)
        async with stream(at_b, alice, place, last) as lines:
            # All of the renaming in between, once and in order, and what comes then.
            versions = [(await next_event(lines))[1]["version"] for _ in range(3)]
            await threat.rename("then", at_b)
            versions.append((await next_event(lines))[1]["version"])
            assert list(range(versions[0], versions[0] + 4)) == versions
