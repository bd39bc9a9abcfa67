"""Reads and writes of threat models over REST, so many a second whatever the server does.

A user has models with threats in them, and reads, lists and renames them in turn. A name says
which model it is of and how often that was renamed, so every answer can be held against what was written: it
has to be a name that no later one had replaced before the request was sent, and that was on its way before
the answer came. At the end models are read once more and have to have their last names: those that were
renamed, and some others.

Ten thousand models and what is in them would take hours over REST, so they are written into the database of
a server that was started here (`bench/filling.py`), once for all runs with it. Few models without threats
are made over REST.
"""

import asyncio
import json
import uuid
from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from bench.filling import Filling
from bench.ledger import Window
from bench.load import Pace
from bench.measuring import (
    CONDITIONS,
    Cost,
    behind,
    drive,
    known,
    latency_curve,
    probe_of,
    remarks_on,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.rest import TIMEOUT_S, Answer, RestClient
from bench.servers import Server
from bench.statistics import percentile

OK, CREATED = 200, 201
SEED = 1
MODELS = "/threat_models"
PAGE = 20
CONNECTIONS = 100
"""Open at the same time at most; a request that finds none free waits, and its time counts."""

MAX_REQUESTS = 100_000
UNDER_WAY_MAX = 5000
"""Requests without an answer; a server that lets so many wait is not given more."""


FEW = 200
"""Models that may be made over REST."""
LOOKED_AT = 100
"""Models that were not renamed, and are read again at the end all the same."""
KEPT_MAX_BYTES = 2_000_000_000
THREAT_BYTES = 600


class Model:
    """One threat model and its names: when each was sent, and when its author knew that it was taken."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.sent_at = array("d")
        self.known_at = array("d")

    @property
    def is_changing(self) -> bool:
        return len(self.sent_at) > len(self.known_at)

    @property
    def last_name(self) -> str:
        return self._name(len(self.sent_at) - 1)

    def rename(self) -> str:
        """A name that it never had."""
        self.sent_at.append(perf_counter())
        return self.last_name

    def renamed(self) -> None:
        self.known_at.append(perf_counter())

    def could_be(self, name: object, sent_at: float, read_at: float) -> bool:
        """Whether a read between these moments may have found this name."""
        oldest = bisect_right(self.known_at, sent_at) - 1
        newest = bisect_right(self.sent_at, read_at) - 1
        return any(name == self._name(change) for change in range(max(0, oldest), newest + 1))

    def _name(self, change: int) -> str:
        return f"model {self.number}, name {change}"


class Part(NamedTuple):
    """What is asked of a model, if that is not all of it."""

    path: str
    threat: int | None
    """None: the first page of threats."""


class Call(NamedTuple):
    """One request and its answer."""

    method: str
    model: Model | None
    """None: the list."""
    part: Part | None
    name: str | None
    """That was written, if one was."""
    sent_at: float
    read_at: float
    answer: Answer


class Traffic:
    """Begins a request when told to. `calls` holds those that were answered, `failures` the others."""

    def __init__(
        self,
        client: RestClient,
        models: Sequence[Model],
        load: "RestLoad",
        filling: Filling | None,
    ) -> None:
        self.calls: list[Call] = []
        self.failures: Counter[str] = Counter()
        self.has_given_up = False
        self._client = client
        self._models = deque(models)
        self._load, self._filling = load, filling
        self._random = Random(SEED)
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, _number: int) -> bool:
        """The next request; False if too many have no answer."""
        task = asyncio.create_task(self._noted(self._next()))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self.has_given_up = len(self._under_way) >= UNDER_WAY_MAX
        return not self.has_given_up

    async def answered(self) -> None:
        """Until every request has its answer or has failed."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=2 * TIMEOUT_S)

    def _next(self) -> Coroutine[None, None, Call]:
        """Models take turns; one whose change is not known to have been taken is read instead."""
        self._models.rotate()
        model = self._models[0]
        if self._random.random() < self._load.writes and not model.is_changing:
            return self._rename(model)
        if self._random.random() < self._load.lists:
            return self._read(None)
        return self._read(model, self._part(model) if self._random.random() < self._load.parts else None)

    def _part(self, model: Model) -> Part | None:
        """A page of the model's threats or one of them, in turn by chance."""
        if self._filling is None:
            return None
        path = f"{path_of(model)}/threats"
        if self._random.random() < 0.5:
            return Part(f"{path}?limit={PAGE}", None)
        threat = self._random.randrange(self._filling.threats)
        return Part(f"{path}/{self._filling.threat_id(model.number, threat)}", threat)

    async def _noted(self, call: Coroutine[None, None, Call]) -> None:
        try:
            self.calls.append(await call)
        except (OSError, TimeoutError) as failure:
            self.failures[f"{type(failure).__name__} {failure}".strip()] += 1

    async def _read(self, model: Model | None, part: Part | None = None) -> Call:
        sent_at = perf_counter()
        answer = await self._client.get(part.path if part else path_of(model))
        return Call("GET", model, part, None, sent_at, perf_counter(), answer)

    async def _rename(self, model: Model) -> Call:
        name, sent_at = model.rename(), model.sent_at[-1]
        operation = {"op": "replace", "path": "/name", "value": name}
        answer = await self._client.patch(path_of(model), [operation])
        model.renamed()
        return Call("PATCH", model, None, name, sent_at, model.known_at[-1], answer)


def path_of(model: Model | None) -> str:
    return f"{MODELS}/{model.id}" if model else f"{MODELS}?limit={PAGE}"


def wrong(call: Call, models: Sequence[Model], threats: int) -> str | None:
    """What is wrong with an answer, if anything is. `threats`: how many each model has."""
    if call.answer.status != OK:
        return f"answered {call.answer.status}"
    try:
        content = json.loads(call.answer.body)
    except ValueError:
        return "no JSON"
    try:
        return _wrong_content(content, call, models, threats)
    except (KeyError, IndexError, TypeError):
        return "not what was asked for"


def _wrong_content(content: Any, call: Call, models: Sequence[Model], threats: int) -> str | None:
    """Raises `KeyError`, `IndexError` or `TypeError` where it lacks what it should have."""
    if call.model is None:
        return _wrong_list(content, call, models)
    if call.part is not None:
        return _wrong_part(content, call.model, call.part, threats)
    if content["id"] != call.model.id:
        return "another model"
    if threats and _names(content["threats"]) != _threats(call.model, threats):
        return "not its threats"
    found = content["name"]
    if call.name is not None:
        return None if found == call.name else f"{call.name!r} was written, and {found!r} answered"
    if not call.model.could_be(found, call.sent_at, call.read_at):
        return f"{found!r} was not its name then"
    return None


def _wrong_part(content: Mapping[str, Any], model: Model, part: Part, threats: int) -> str | None:
    expected = _threats(model, threats)
    if part.threat is not None:
        return None if content["name"] == expected[part.threat] else "another threat"
    page = list(reversed(expected))[:PAGE]
    is_right = content["total"] == threats and sorted(_names(content["threats"])) in (
        sorted(page), sorted(expected[:PAGE])
    )  # fmt: skip
    return None if is_right else "not a page of its threats"


def _names(threats: Sequence[Mapping[str, Any]]) -> list[str]:
    return [threat["name"] for threat in threats]


def _threats(model: Model, threats: int) -> list[str]:
    return [f"threat {number} of model {model.number}" for number in range(threats)]


def _wrong_list(content: Mapping[str, Any], call: Call, models: Sequence[Model]) -> str | None:
    newest = list(reversed(models))[:PAGE]
    listed = content["threat_models"]
    if content["total"] != len(models) or [item["id"] for item in listed] != [model.id for model in newest]:
        return "not the newest models"
    for item, model in zip(listed, newest, strict=True):
        if not model.could_be(item["name"], call.sent_at, call.read_at):
            return f"{item['name']!r} was not its name then"
    return None


@dataclass(frozen=True)
class RestLoad:
    """Reads and writes of threat models at a steady rate: what a request costs, and how long it takes."""

    scenario: ClassVar[str] = "rest"
    title: ClassVar[str] = "REST"
    cost: ClassVar[str] = "cpu_us"
    needs: ClassVar[frozenset[str]] = frozenset({"rest"})
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("read_p50_ms", "read, p50", "ms", "lower"),
        Figure("read_p99_ms", "read, p99", "ms", "lower"),
        Figure("write_p50_ms", "write, p50", "ms", "lower"),
        Figure("write_p99_ms", "write, p99", "ms", "lower"),
        Figure("cpu_us", "CPU", "us/request", "lower", ",.0f"),
        Figure("database_us", "Postgres", "us/request", "lower", ",.0f"),
        Figure("requests_per_s", "answered", "a second", "higher", ",.0f"),
        *CONDITIONS,
    )

    rate: float = option(500.0, "Requests per second.")
    writes: float = option(0.0, "Share of them that rename a model.")
    lists: float = option(0.1, "Share of the reads that list models.")
    parts: float = option(0.0, "Share of the other reads that ask for 20 threats of a model, or for one.")
    models: int = option(10_000, "That are read and renamed, all of one user.")
    threats: int = option(100, "In each of them.")
    seconds: float = option(5.0, "Measured.")
    warm_up_s: float = option(1.0, "Under load before that.")

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.writes, self.lists, self.parts)):
            raise ValueError("shares are between 0 and 1")
        if not 1 <= self.models <= 10_000:
            raise ValueError("1 to 10,000 models")
        if not 0 <= self.threats <= 1000 or (self.parts and not self.threats):
            raise ValueError("a model has at most 1,000 threats, and some where parts are read")
        if min(self.rate, self.seconds) <= 0 or self.warm_up_s < 0:
            raise ValueError("rate and seconds have to be positive")
        if self.rate * (self.seconds + self.warm_up_s) > MAX_REQUESTS:
            raise ValueError(f"that is over {MAX_REQUESTS:,} requests, and all answers are kept")
        if self.rate * (self.seconds + self.warm_up_s) * self.threats * THREAT_BYTES > KEPT_MAX_BYTES:
            raise ValueError("all answers are kept, and that would be over 2 GB: fewer requests or threats")

    @property
    def label(self) -> str:
        what = f"{self.writes:.0%} writes" if self.writes else "reads only"
        parts = f", {self.parts:.0%} parts" if self.parts else ""
        return f"{self.rate:g}/s, {what}, {self.lists:.0%} lists{parts}, {self.models:,} x {self.threats}"

    @property
    def goals(self) -> tuple[Goal, ...]:
        asked = (self.rate, self.writes, self.lists, self.parts, self.models, self.threats)
        is_target = asked == (500, 0, 0.1, 0, 10_000, 100)
        return (Goal("read_p99_ms", limit=20),) if is_target else ()

    @property
    def clients_at_once(self) -> int:
        return CONNECTIONS

    async def measure(self, server: Server, place: Place) -> Run:
        """One run. Raises `ServerError`, `OSError` or `TimeoutError`."""
        filling = None
        if self.threats or self.models > FEW:
            filling = await server.filled(self.models, self.threats)
        account = filling.account if filling else await server.account(f"rest-{uuid.uuid4()}")
        async with RestClient(account, CONNECTIONS) as client:
            if filling is None:
                models = [await made(client, number) for number in range(self.models)]
            else:
                models = written(filling)
            names = [len(model.sent_at) for model in models]
            traffic = Traffic(client, models, self, filling)
            pace = Pace(self.rate, traffic.begin)
            before, after = await drive(pace, self.warm_up_s, self.seconds, probe_of(server, place))
            await traffic.answered()
            renamed = [m for m, before in zip(models, names, strict=True) if len(m.sent_at) > before]
            faults = [
                *faults_of(traffic, models, self.threats),
                *await lost(client, [*renamed, *models[:: max(1, len(models) // LOOKED_AT)]]),
            ]
        window = Window(before.at, after.at)
        return self._run(server.name, traffic.calls, window, Cost.between(before, after), pace, faults)

    def _run(
        self, server: str, calls: Sequence[Call], window: Window, cost: Cost, pace: Pace, faults: list[str]
    ) -> Run:
        sent = [call for call in calls if window.start <= call.sent_at < window.end]
        answered = sum(window.start <= call.read_at < window.end for call in calls)
        reads, writes = (_took(sent, method) for method in ("GET", "PATCH"))
        conditions = cost.conditions(pace.late_s)
        remarks = [*remarks_on(conditions), *behind(answered, self.rate * self.seconds)]
        figures = {
            "read_p50_ms": percentile(reads, 0.50) * 1e3,
            "read_p99_ms": percentile(reads, 0.99) * 1e3,
            "write_p50_ms": percentile(writes, 0.50) * 1e3,
            "write_p99_ms": percentile(writes, 0.99) * 1e3,
            "cpu_us": cost.server_us_per(answered),
            "database_us": cost.database_us_per(answered),
            "requests_per_s": answered / cost.seconds,
        }
        parameters = {
            "rate": self.rate, "writes": self.writes, "lists": self.lists, "parts": self.parts,
            "models": self.models, "threats": self.threats, "seconds": self.seconds,
        }  # fmt: skip
        curves = {
            "reads": latency_curve(reads, "Time until answered, reads"),
            "writes": latency_curve(writes, "Time until answered, writes"),
        }
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {name: curve for name, curve in curves.items() if curve.points}, faults, remarks,
        )  # fmt: skip


def _took(calls: Sequence[Call], method: str) -> "array[float]":
    return array("d", sorted(call.read_at - call.sent_at for call in calls if call.method == method))


async def made(client: RestClient, number: int) -> Model:
    """A new model under its first name. Raises `ServerError`, `OSError` or `TimeoutError`."""
    model = Model(number)
    model.id = (await client.post(MODELS, {"name": model.rename()})).json(expected=CREATED)["id"]
    model.renamed()
    return model


def written(filling: Filling) -> list[Model]:
    """The models of a filling, with all names that earlier runs gave them."""
    models = _WRITTEN.get(filling)
    if models is None:
        models = _WRITTEN[filling] = []
        for number in range(filling.models):
            model = Model(number)
            model.id = filling.model_id(number)
            model.rename()
            model.renamed()
            models.append(model)
    return models


_WRITTEN: WeakKeyDictionary[Filling, list[Model]] = WeakKeyDictionary()


def faults_of(traffic: Traffic, models: Sequence[Model], threats: int) -> list[str]:
    """Requests that failed, and answers that are not what they should be; the equal ones as one."""
    what_is_wrong = (
        f"{call.method} {_what(call)}: {reason}"
        for call in traffic.calls
        if (reason := wrong(call, models, threats))
    )
    found = [f"{count} x {what}" for what, count in (traffic.failures + Counter(what_is_wrong)).items()]
    return [*found, f"gave up with {UNDER_WAY_MAX:,} requests unanswered"] if traffic.has_given_up else found


def _what(call: Call) -> str:
    if call.part is not None:
        return "of a part of a model"
    return "of a model" if call.model else "of the list"


async def lost(client: RestClient, models: Sequence[Model]) -> list[str]:
    """A fault if models do not have the name that was written last. Raises `ServerError` and the like."""
    answers = await asyncio.gather(*(client.get(path_of(model)) for model in models))
    found = [answer.json(expected=OK) for answer in answers]
    count = sum(
        not isinstance(content, dict) or content.get("name") != model.last_name
        for content, model in zip(found, models, strict=True)
    )
    return [f"{count} of {len(models)} models have lost their last name"] if count else []
