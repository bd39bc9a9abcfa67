"""The port `Signals`."""

import asyncio
from uuid import UUID, uuid4

from tests.contracts.conftest import Ports
from tmi.domain.ports import Happened, Signal


async def test_what_is_published_reaches_every_listener(ports: Ports) -> None:
    first, second = list[Signal | None](), list[Signal | None]()
    signal = Signal(Happened.ACCESS_CHANGED, (uuid4(), uuid4()))
    async with ports.signals.hearing(first.append), ports.signals.hearing(second.append):
        await ports.signals.publish(signal)
        async with asyncio.timeout(5):
            while not (first and second):
                await asyncio.sleep(0.01)
    assert [signal] == first == second


async def test_many_ids_arrive_in_as_many_signals_as_it_takes(ports: Ports) -> None:
    heard = list[Signal | None]()
    ids = tuple(uuid4() for _ in range(1000))
    async with ports.signals.hearing(heard.append):
        await ports.signals.publish(Signal(Happened.DELETED, ids))
        async with asyncio.timeout(5):
            while len(_ids(heard)) < len(ids):
                await asyncio.sleep(0.01)
    assert ids == _ids(heard)


async def test_nothing_is_heard_after_the_end(ports: Ports) -> None:
    heard = list[Signal | None]()
    async with ports.signals.hearing(heard.append):
        pass
    await ports.signals.publish(Signal(Happened.SIGN_IN_ENDED, (uuid4(),)))
    await asyncio.sleep(0.1)
    assert [] == heard


def _ids(heard: list[Signal | None]) -> tuple[UUID, ...]:
    return tuple(key for signal in heard if signal is not None for key in signal.ids)
