"""What followers of threat models are told, when the database comes and goes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID, uuid4

import pytest

from api import news
from api.news import New, News, Pair
from persistence.memory.access import MemoryAccessControl
from persistence.memory.events import MemoryFeed
from persistence.memory.store import MemoryStore
from tests.rest import RestClient, over_memory
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.events import Recorded
from tmi.domain.ids import ThreatModelId, UserId


class Reader:
    """The only one of its audience."""

    def __init__(self) -> None:
        self.is_there = False
        self.told: list[int] = []

    def has(self, model: ThreatModelId) -> bool:
        return self.is_there

    def users(self, model: ThreatModelId) -> Iterable[UserId]:
        return ()

    def looked(self, readable: Mapping[Pair, bool]) -> None:
        """Nothing depends on it here."""

    def offer(self, model: ThreatModelId, new: New, after: int) -> None:
        self.told.append(new.number)

    def lose(self, model: ThreatModelId, after: int) -> None:
        raise AssertionError


class Feed(MemoryFeed):
    """That cannot be read at times."""

    is_away = False

    async def since(self, model: ThreatModelId, number: int, limit: int) -> Sequence[Recorded]:
        if self.is_away:
            raise DatabaseUnavailable("away")
        return await super().since(model, number, limit)


async def rename(rest: RestClient, token: str, model: ThreatModelId) -> None:
    change = [{"op": "replace", "path": "/name", "value": str(uuid4())}]
    media_type = "application/json-patch+json"
    answer = await rest.call(
        "PATCH", f"/threat_models/{model}", token, json_body=change, content_type=media_type
    )
    assert 200 == answer.status


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_who_follows_anew_begins_at_the_end_whatever_was_not_read_for_who_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(news, "RETRY_S", 0.05)
    store, reader = MemoryStore(), Reader()
    async with over_memory(store=store) as rest:
        alice = await rest.sign_in("alice")
        model = ThreatModelId(UUID((await rest.create_model(alice))["id"]))
        feed = Feed(store)
        told = News(feed, MemoryAccessControl(store))
        told.add(reader)
        async with told.running():
            async with told.joining(model) as first:
                reader.is_there = True
            await rename(rest, alice, model)
            await until(lambda: [first + 1] == reader.told)
            feed.is_away = True
            await rename(rest, alice, model)
            await asyncio.sleep(0.02)
            reader.is_there = False
            await until(lambda: not told.followed)
            feed.is_away = False
            async with told.joining(model) as again:
                reader.is_there = True
            assert first + 2 == again, "what came before is no news"
            await rename(rest, alice, model)
            await until(lambda: [first + 1, first + 3] == reader.told)
