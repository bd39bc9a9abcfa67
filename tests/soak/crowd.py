"""Two hundred people at work: they edit, point, drop out and come back, and move on to new diagrams."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.harness.rest import Person, Place, Rest
from tests.soak.client import Client

TICK_S = 0.05
RECONNECTING_MAX = 50


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done; rates of all clients together."""

    clients: int = 200
    rooms: int = 20
    edits_per_s: float = 100.0
    cursors_per_s: float = 200.0
    reconnects_per_s: float = 10.0
    room_life_s: float = 20.0
    """Every room gives way to a new one after so long: a document grows with each edit, and its own memory is
    not what is looked for.
    """


class Crowd:
    """All clients of a soak. Leaving `at_work` takes them offline."""

    def __init__(self, rest: Rest, owner: Person, token: str, port: int, work: Work) -> None:
        self._rest = rest
        self._owner = owner
        self._work = work
        self._random = random.Random(1)
        self._model = ""
        self._places: list[Place] = []
        self._going = asyncio.Semaphore(RECONNECTING_MAX)
        self.clients = [
            Client(port, token, is_hocuspocus=number % 2 == 1, seed=number) for number in range(work.clients)
        ]
        self.edits = self.reconnects = self.moves = 0

    def room(self, number: int) -> list[Client]:
        """The clients of a room: of both protocols."""
        each = self._work.clients // self._work.rooms
        return self.clients[number * each : (number + 1) * each]

    async def gather(self) -> None:
        """Everybody joins."""
        self._model = await self._rest.create_model(self._owner)
        for number in range(self._work.rooms):
            self._places.append(await self._rest.create_diagram(self._owner, self._model))
            await asyncio.gather(*(one.move(self._places[number].diagram) for one in self.room(number)))

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """All kinds of work go on inside; then everybody who is away comes back, and a move begun is made."""
        work = self._work
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._steadily(work.edits_per_s, self._edit)),
                group.create_task(self._steadily(work.cursors_per_s, self._point)),
                group.create_task(self._steadily(work.reconnects_per_s, self._start_reconnect(group))),
                group.create_task(self._move_on(group)),
            ]
            yield
            for task in tasks:
                task.cancel()

    async def agree(self, timeout_s: float) -> None:
        """Wait until all clients of each room hold the same.

        Raises AssertionError: they do not after `timeout_s`; it says who holds what, and in which diagram.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        for number in range(self._work.rooms):
            while differing := self._differing(number):
                late = asyncio.get_running_loop().time() > deadline
                assert not late, f"room {number} does not agree: {differing}"
                await asyncio.sleep(0.05)

    def _differing(self, number: int) -> list[str]:
        first, *others = self.room(number)
        return [
            f"{one} and {first}: {sorted(one.differing(first))}"
            for one in others
            if one.content() != first.content() or one.diagram != first.diagram
        ]

    async def disperse(self) -> None:
        """Everybody leaves."""
        await asyncio.gather(*(one.leave() for one in self.clients))

    async def vanish(self) -> None:
        """Who is still there is gone without a word; for tests that fail."""
        await asyncio.gather(*(one.drop() for one in self.clients))

    # --- work -----------------------------------------------------------------------------------

    async def _steadily(self, per_s: float, act: Callable[[Client], None]) -> None:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), 0
        while True:
            due = int((loop.time() - began) * per_s)
            for _ in range(done, due):
                act(self._random.choice(self.clients))
            done = due
            await asyncio.sleep(TICK_S)

    def _edit(self, client: Client) -> None:
        self.edits += 1
        client.edit()

    def _point(self, client: Client) -> None:
        client.point()

    def _start_reconnect(self, group: asyncio.TaskGroup) -> Callable[[Client], None]:
        return lambda client: self._start(group, self._reconnect(client))

    def _start(self, group: asyncio.TaskGroup, coming: Awaitable[None]) -> None:
        async def bounded() -> None:
            async with self._going:
                await coming

        group.create_task(bounded())

    async def _reconnect(self, client: Client) -> None:
        async with client.lock:
            await (client.drop() if self._random.random() < 0.5 else client.leave())
            client.edit()
            await asyncio.sleep(self._random.random() / 2)
            await client.join()
            self.reconnects += 1

    async def _move_on(self, group: asyncio.TaskGroup) -> None:
        """One room after another is left for a new diagram.

        A move is a task of `group`, which is waited for: a room moved by half would never agree.
        """
        work, number = self._work, 0
        while True:
            await asyncio.sleep(work.room_life_s / work.rooms)
            await asyncio.shield(group.create_task(self._move_room(number)))
            number = (number + 1) % work.rooms

    async def _move_room(self, number: int) -> None:
        """A room is left for a new diagram; each second old one is deleted."""
        place = await self._rest.create_diagram(self._owner, self._model)
        await asyncio.gather(*(self._move(one, place) for one in self.room(number)))
        if self.moves % 2:
            await self._rest.delete_diagram(self._owner, self._places[number])
        self._places[number] = place
        self.moves += 1

    async def _move(self, client: Client, place: Place) -> None:
        async with client.lock:
            await client.move(place.diagram)
