"""A working day in a minute: everything that people do with the service, at once and in no order.

Each room has editors and viewers, who look on and may not write. An editor thinks for a while and then drags
a node for a second (twenty edits and twenty moves of the cursor), looks something up over REST, or reloads
the page: leaves, gets a new token and joins again. A viewer points, looks up and reloads. Meanwhile somebody
makes new models and diagrams. Who does what, and after how long, comes of seeded generators and is the same
in every run.

Whoever is there in the end, and a newcomer to each room, has to have every edit. Each viewer tries once to
edit the diagram and to rename the model: neither may come of it.
"""

import asyncio
import uuid
from array import array
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from time import perf_counter
from typing import Any, ClassVar

from picows import WSError

from bench.ledger import Ledger, Window
from bench.load import TIMER_RESOLUTION_S, send_one
from bench.measuring import (
    CONDITIONS,
    Cost,
    client_number,
    collector_at_rest,
    known,
    latency_curve,
    leave_all,
    lost_connections,
    probe_of,
    remarks_on,
    until_quiet,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.process import Moment, Probe
from bench.rest import Answer, RestClient
from bench.scenarios.cursors import Pointer
from bench.scenarios.rest import CREATED, MODELS, OK
from bench.servers import Account, Server, ServerError
from bench.statistics import percentile

FORBIDDEN = 403
DIAGRAM_TYPE = "DFD-1.0.0"
SEED = 7
THINKS_S = 2.0
"""On average, between two things that one does."""

DRAG_STEPS = 20
DRAG_STEP_S = 0.05
LOOKS_UP, RELOADS = 0.2, 0.1
"""Shares of the things that one does; the rest is dragging or, for viewers, pointing."""

AWAY_S = 1.0
NEW_MODEL_EVERY_S = 2.0
SETTLE_S = 5.0
MAX_COPIES = 5_000_000


class Person(Pointer):
    """One visit of an editor or a viewer. `joined_at` is when it had its first sync."""

    joined_at = float("inf")

    def drag(self) -> None:
        self.move()
        send_one(self)


@dataclass
class Desk:
    """A model with one diagram, and everybody who was or is there. The last visit of each is who is there."""

    model: str
    name: str
    diagram: str
    editors: list[Person] = field(default_factory=list)
    viewers: list[Person] = field(default_factory=list)
    present: set[Person] = field(default_factory=set)

    @property
    def visits(self) -> list[Person]:
        return [*self.editors, *self.viewers]

    def lacks_edits(self, person: Person) -> bool:
        return Ledger(self.editors).missing(person) > 0

    def has_forbidden_edits(self, person: Person) -> bool:
        tried = sum(len(viewer.sent_at) for viewer in self.viewers if viewer is not person)
        return Ledger(self.viewers).missing(person) < tried


class Day:
    """What goes on, and what came of it. Whatever fails is counted in `errors` and does not end the day.

    Times are kept only of what began and ended between the moments that `pass_by` returns.
    """

    def __init__(self, server: Server, editors: RestClient, viewers: RestClient, seconds: float) -> None:
        self.rest_s, self.joins_s, self.late_s = array("d"), array("d"), array("d")
        self.errors: Counter[str] = Counter()
        self._server = server
        self._editors, self._viewers = editors, viewers
        self._seconds = seconds
        self._until = 0.0
        self._is_on = False
        self._numbers = count()

    async def open(self, desks: Sequence[Desk], editors: int, viewers: int) -> None:
        """So many people of each kind come to each desk."""
        for desk in desks:
            kinds = [True] * editors + [False] * viewers
            await asyncio.gather(*(self.enter(desk, is_editor) for is_editor in kinds))

    async def pass_by(self, desks: Sequence[Desk], probe: Probe) -> tuple[Moment, Moment]:
        """Everybody who is present does something until the day is over; the moments at its ends."""
        with collector_at_rest():
            before = probe.read()
            self._until, self._is_on = perf_counter() + self._seconds, True
            lives = [
                self._live(desk, person, Random(f"{SEED} {desk.name} {number}"))
                for desk in desks
                for number, person in enumerate(desk.visits)
            ]
            await asyncio.gather(*lives, self._make_models())
            self._is_on = False
            return before, probe.read()

    async def enter(self, desk: Desk, is_editor: bool) -> Person | None:
        """One more visit, with a token of its own; None if it failed."""
        rest, visits = (self._editors, desk.editors) if is_editor else (self._viewers, desk.viewers)
        collab = await self.ask(rest.post("/collab/tokens", {"diagram_id": desk.diagram}))
        if collab is None:
            return None
        room = self._server.room_at(desk.diagram, collab)
        person = Person(next(self._numbers), client_number(), room.dialect)
        visits.append(person)
        start = perf_counter()
        try:
            await person.join(room.url)
        except (OSError, TimeoutError, WSError) as failure:
            self.errors[f"a join failed: {failure!r}"] += 1
            return None
        person.joined_at = perf_counter()
        if self._is_on:
            self.joins_s.append(person.joined_at - start)
        desk.present.add(person)
        return person

    async def ask(self, call: Awaitable[Answer], expected: int = OK) -> Any:
        """The content of an answer of this status; None if there is none."""
        start = perf_counter()
        try:
            content = (await call).json(expected)
        except (OSError, TimeoutError, ServerError) as failure:
            self.errors[str(failure)] += 1
            return None
        if self._is_on:
            self.rest_s.append(perf_counter() - start)
        return content

    async def _live(self, desk: Desk, person: Person | None, random: Random) -> None:
        is_editor = person in desk.editors
        if person is not None and not is_editor:
            await asyncio.sleep(random.uniform(0, THINKS_S))
            await self._try_to_write(desk, person)
        while person is not None and await self._thinks(random):
            what = random.random()
            if what < LOOKS_UP:
                await self._look_up(desk, is_editor, random)
            elif what < LOOKS_UP + RELOADS:
                await self._go(desk, person)
                person = await self.enter(desk, is_editor)
            elif is_editor:
                await self._drag(person)
            else:
                person.move()

    async def _thinks(self, random: Random) -> bool:
        """Whether there is still time for something."""
        until = perf_counter() + random.expovariate(1 / THINKS_S)
        await asyncio.sleep(max(0.0, min(until, self._until) - perf_counter()))
        return until < self._until

    async def _drag(self, person: Person) -> None:
        start = perf_counter()
        for step in range(DRAG_STEPS):
            due = start + step * DRAG_STEP_S
            await asyncio.sleep(max(TIMER_RESOLUTION_S, due - perf_counter()))
            if person.lost is not None:
                return
            self.late_s.append(perf_counter() - due)
            person.drag()

    async def _go(self, desk: Desk, person: Person) -> None:
        desk.present.discard(person)
        await leave_all([person])
        await asyncio.sleep(AWAY_S)

    async def _look_up(self, desk: Desk, is_editor: bool, random: Random) -> None:
        rest = self._editors if is_editor else self._viewers
        model = f"{MODELS}/{desk.model}"
        diagram = f"{model}/diagrams/{desk.diagram}"
        path, expected = random.choice([(model, desk.model), (diagram, desk.diagram)])
        found = await self.ask(rest.get(path))
        if found is not None and (found["id"], found["name"]) != (expected, desk.name):
            self.errors["something else was found"] += 1

    async def _try_to_write(self, desk: Desk, viewer: Person) -> None:
        send_one(viewer)
        renaming = [{"op": "replace", "path": "/name", "value": "renamed by a viewer"}]
        await self.ask(self._viewers.patch(f"{MODELS}/{desk.model}", renaming), expected=FORBIDDEN)

    async def _make_models(self) -> None:
        while perf_counter() + NEW_MODEL_EVERY_S < self._until:
            await asyncio.sleep(NEW_MODEL_EVERY_S)
            made = await self.ask(self._editors.post(MODELS, {"name": "made in passing"}), expected=CREATED)
            if made is not None:
                path = f"{MODELS}/{made['id']}/diagrams"
                diagram = {"name": "made in passing", "type": DIAGRAM_TYPE}
                await self.ask(self._editors.post(path, diagram), expected=CREATED)


async def new_desk(client: RestClient, name: str, reader: Account) -> Desk:
    """A model with a diagram, which somebody else may read.

    Raises `ServerError`, `OSError` or `TimeoutError`.
    """
    share = {"principal_type": "user", "provider": "tmi", "provider_id": reader.email, "role": "reader"}
    model = (await client.post(MODELS, {"name": name, "authorization": [share]})).json(expected=CREATED)
    diagram = await client.post(f"{MODELS}/{model['id']}/diagrams", {"name": name, "type": DIAGRAM_TYPE})
    return Desk(model["id"], name, diagram.json(expected=CREATED)["id"])


@dataclass(frozen=True)
class MixedLoad:
    """A working day in a minute: editing, looking on, coming and going, REST; all of it at once."""

    scenario: ClassVar[str] = "mixed"
    title: ClassVar[str] = "A working day"
    cost: ClassVar[str] = "cpu_us"
    needs: ClassVar[frozenset[str]] = frozenset({"rest"})
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("edit_p50_ms", "edit, p50", "ms", "lower"),
        Figure("edit_p99_ms", "edit, p99", "ms", "lower"),
        Figure("join_p99_ms", "joined, p99", "ms", "lower"),
        Figure("rest_p50_ms", "REST, p50", "ms", "lower"),
        Figure("rest_p99_ms", "REST, p99", "ms", "lower"),
        Figure("cpu_us", "CPU", "us/s of a user", "lower", ",.0f"),
        Figure("database_us", "Postgres", "us/s of a user", "lower", ",.0f"),
        Figure("cpu_s", "CPU in all", "s", "lower", ".2f"),
        Figure("edits", "edits", "in all", form=",.0f", in_table=False),
        Figure("joins", "joins", "in all", form=",.0f", in_table=False),
        Figure("requests", "REST requests", "in all", form=",.0f", in_table=False),
        Figure("errors", "errors", "in all", "lower", ",.0f"),
        *CONDITIONS,
    )

    rooms: int = option(20, "Each with a model and a diagram of its own.")
    editors: int = option(3, "In each room.")
    viewers: int = option(2, "In each room, who may not write.")
    seconds: float = option(60.0, "Measured.")

    def __post_init__(self) -> None:
        if not 1 <= self.rooms <= 500 or not 1 <= self.editors <= 50 or not 0 <= self.viewers <= 50:
            raise ValueError("1 to 500 rooms, 1 to 50 editors and up to 50 viewers in each")
        if not 0 < self.seconds <= 600:
            raise ValueError("a day takes up to 600 s")
        drags = self.rooms * self.editors * self.seconds / DRAG_STEP_S
        if 2 * drags * (self.editors + self.viewers) > MAX_COPIES:
            raise ValueError(f"that may be over {MAX_COPIES:,} copies: fewer rooms, people or seconds")

    @property
    def users(self) -> int:
        return self.rooms * (self.editors + self.viewers)

    @property
    def label(self) -> str:
        return f"{self.rooms} rooms, {self.editors} editors and {self.viewers} viewers each"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return ()

    @property
    def clients_at_once(self) -> int:
        return self.users

    async def measure(self, server: Server, place: Place) -> Run:
        """One day. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        editor, viewer = [await server.account(f"{who}-{uuid.uuid4()}") for who in ("editor", "viewer")]
        async with RestClient(editor) as editors, RestClient(viewer) as viewers:
            desks = [await new_desk(editors, f"desk {number}", viewer) for number in range(self.rooms)]
            day = Day(server, editors, viewers, self.seconds)
            try:
                await day.open(desks, self.editors, self.viewers)
                before, after = await day.pass_by(desks, probe_of(server, place))
                faults = await self._faults(day, desks, server)
            finally:
                await leave_all([person for desk in desks for person in desk.present])
        return self._run(server.name, day, desks, before, after, faults)

    async def _faults(self, day: Day, desks: Sequence[Desk], server: Server) -> list[str]:
        """Those who are there are asked what they have; then all leave, and newcomers are."""
        there = [(desk, person) for desk in desks for person in desk.present]
        everybody = [person for _, person in there]
        await until_quiet(everybody, asyncio.get_running_loop().time() + SETTLE_S)
        await leave_all(everybody)
        if "durable" in server.offers:
            await server.until_evicted()
        visits = [person for desk in desks for person in desk.visits]
        came = [(desk, await day.enter(desk, is_editor=True)) for desk in desks]
        newcomers = [(desk, person) for desk, person in came if person is not None]
        return [
            *lost_connections(visits),
            *shortcomings("people", there),
            *shortcomings("newcomers", newcomers),
            *(f"{count} x {what}" for what, count in day.errors.items()),
        ]

    def _run(
        self, server: str, day: Day, desks: Sequence[Desk], before: Moment, after: Moment, faults: list[str]
    ) -> Run:
        cost, window = Cost.between(before, after), Window(before.at, after.at)
        conditions = cost.conditions(day.late_s)
        edits, rest, joins = (
            array("d", sorted(took)) for took in (latencies(desks, window), day.rest_s, day.joins_s)
        )
        figures = {
            "edit_p50_ms": percentile(edits, 0.50) * 1e3,
            "edit_p99_ms": percentile(edits, 0.99) * 1e3,
            "join_p99_ms": percentile(joins, 0.99) * 1e3,
            "rest_p50_ms": percentile(rest, 0.50) * 1e3,
            "rest_p99_ms": percentile(rest, 0.99) * 1e3,
            "cpu_us": cost.server_us_per(self.users * cost.seconds),
            "database_us": cost.database_us_per(self.users * cost.seconds),
            "cpu_s": cost.server_us_per(1) / 1e6,
            "edits": float(sum(len(person.sent_at) for desk in desks for person in desk.editors)),
            "joins": float(len(joins)),
            "requests": float(len(rest)),
            "errors": float(day.errors.total()),
        }
        parameters = {
            "rooms": self.rooms, "editors": self.editors, "viewers": self.viewers, "seconds": self.seconds
        }  # fmt: skip
        curves = {
            "edits": latency_curve(edits),
            "joins": latency_curve(joins, "Time until joined"),
            "rest": latency_curve(rest, "Time until answered"),
        }
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {name: curve for name, curve in curves.items() if curve.points}, faults, remarks_on(conditions),
        )  # fmt: skip


def latencies(desks: Sequence[Desk], window: Window) -> Iterator[float]:
    """Of every edit at every other who was there when it was sent."""
    for desk in desks:
        ledger = Ledger(desk.editors)
        for person in desk.visits:
            yield from ledger.latencies(person, Window(max(window.start, person.joined_at), window.end))


def shortcomings(who: str, readers: Sequence[tuple[Desk, Person]]) -> list[str]:
    """What these lack of the editors' edits, and what they have of the viewers'."""
    counts = (
        (sum(desk.lacks_edits(person) for desk, person in readers), "lack edits"),
        (sum(desk.has_forbidden_edits(person) for desk, person in readers), "were given edits of viewers"),
    )
    return [f"{count} of {len(readers)} {who} {what}" for count, what in counts if count]
