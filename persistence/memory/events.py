"""The audit trail in memory."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import orjson

from persistence.memory.store import MemoryStore
from tmi.domain.errors import NotFound
from tmi.domain.events import ChangeType, Difference, Event, ObjectType, Recorded, State
from tmi.domain.ids import EventId, ThreatModelId
from tmi.domain.ports import EventFilter, EventPage, Page
from tmi.domain.webhooks import notices_of

Hear = Callable[[ThreatModelId | None], None]


def write(store: MemoryStore, *events: Event) -> None:
    """Add events, in their order, together with the change that they tell of."""
    for event in events:
        store.last_event += 1
        # As PostgreSQL has it: JSON values, and nobody changes them any more.
        state = None if event.state is None else orjson.loads(orjson.dumps(event.state))
        store.events[store.last_event] = replace(event, state=state)
        store.hooks.tell(notices_of(event), event.threat_model, store.clock())
    for model in {event.threat_model for event in events}:
        for hear in list(store.event_listeners):
            hear(model)


class MemoryTrail:
    """The port `Trail`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def page(self, wanted: EventFilter, limit: int, cursor: int | None, *, newer: bool) -> EventPage:
        """The events after (`newer`: before) a place in the list, from its newest end without one."""
        self._store.visit()
        matching = [(number, e) for number, e in self._store.events.items() if _matches(wanted, e)]
        if newer:
            shown = [(n, e) for n, e in matching if cursor is None or n > cursor][:limit][::-1]
        else:
            shown = [(n, e) for n, e in reversed(matching) if cursor is None or n < cursor][:limit]
        if not shown:
            return EventPage([], len(matching), None, None)
        first, last = shown[0][0], shown[-1][0]
        return EventPage(
            [_recorded(number, event) for number, event in shown],
            len(matching),
            last if matching[0][0] < last else None,
            first if matching[-1][0] > first else None,
        )

    async def of_object(
        self, model: ThreatModelId, object_type: ObjectType, key: UUID, page: Page
    ) -> tuple[Sequence[Recorded], int]:
        """A page of the events of one object, newest first, and their total."""
        self._store.visit()
        wanted = (model, object_type, key)
        matching = [
            _recorded(number, e)
            for number, e in reversed(self._store.events.items())
            if (e.threat_model, e.object_type, e.object_id) == wanted
        ]
        return matching[page.offset : page.offset + page.limit], len(matching)

    async def get(self, event: EventId) -> Recorded:
        """An event with its state, if that is kept; see the port. Raises NotFound."""
        self._store.visit()
        for number, found in self._store.events.items():
            if found.id == event:
                state = self._state_by_then(found) if found.seq is not None else None
                return replace(_recorded(number, found), event=replace(found, state=found.state or state))
        raise NotFound("There is no such audit entry.")

    def _state_by_then(self, event: Event) -> State | None:
        states = (
            earlier.state
            for earlier in reversed(self._store.events.values())
            if earlier.object_id == event.object_id and earlier.at <= event.at
        )
        return next((state for state in states if state is not None), None)

    async def changes(self, numbers: Sequence[int]) -> Mapping[int, Difference]:
        """What these events changed, where that is known."""
        self._store.visit()
        found = {number: self._change(number) for number in numbers}
        return {number: change for number, change in found.items() if change is not None}

    def _change(self, number: int) -> Difference | None:
        event = self._store.events.get(number)
        if event is None or event.state is None:
            return None
        if event.change is ChangeType.CREATED:
            return Difference.between({}, event.state)
        for earlier, before in reversed(self._store.events.items()):
            if earlier < number and before.object_id == event.object_id and before.state is not None:
                return Difference.between(before.state, event.state)
        return None

    async def purge(self, before: datetime, states_before: datetime, rows: int) -> int:
        """Delete up to `rows` events that are older, and as many states; returns how many went."""
        self._store.visit()
        events = self._store.events
        stateful = [n for n, e in events.items() if e.state is not None]
        stateless = [n for n in stateful if events[n].at < max(before, states_before)][:rows]
        for number in stateless:
            events[number] = replace(events[number], state=None)
        old = [number for number, event in events.items() if event.at < before][:rows]
        for number in old:
            del events[number]
        return len(old) + len(stateless)


class MemoryFeed:
    """The port `Feed`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def last(self, model: ThreatModelId) -> int:
        """The number of a threat model's newest event; 0 where there is none."""
        self._store.visit()
        return max((n for n, e in self._store.events.items() if e.threat_model == model), default=0)

    async def since(self, model: ThreatModelId, number: int, limit: int) -> Sequence[Recorded]:
        """The first `limit` events of a threat model after a number, oldest first, without states."""
        self._store.visit()
        events = self._store.events.items()
        return [_recorded(n, e) for n, e in events if n > number and e.threat_model == model][:limit]

    def hearing(self, handle: Hear) -> AbstractAsyncContextManager[None]:
        """Listen while the body runs."""
        return _hearing(self._store.event_listeners, handle)


@asynccontextmanager
async def _hearing(listeners: list[Hear], handle: Hear) -> AsyncIterator[None]:
    listeners.append(handle)
    try:
        yield
    finally:
        listeners.remove(handle)


def _recorded(number: int, event: Event) -> Recorded:
    return Recorded(number, replace(event, state=None), event.state is not None or event.seq is not None)


def _matches(wanted: EventFilter, event: Event) -> bool:
    equal = (
        (wanted.threat_model, event.threat_model),
        (wanted.object_type, event.object_type),
        (wanted.change, event.change),
        (None if wanted.email is None else wanted.email.lower(), event.actor.email.lower()),
        (wanted.provider, event.actor.provider),
    )
    return (
        all(value is None or value == found for value, found in equal)
        and (wanted.after is None or event.at > wanted.after)
        and (wanted.before is None or event.at < wanted.before)
    )
