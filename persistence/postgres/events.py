"""The audit trail on PostgreSQL. `write` adds events in the transaction of what they tell of.

What it holds true
    In one threat model the numbers of events rise in the order of their commits: `write` locks the threat
    model's trail until the transaction ends, and only then draws numbers. So a reader who has seen a number
    will never find a lower one later, and a stream can be resumed by number.

    Whoever follows the trail hears of a commit from the commit itself: NOTIFY belongs to the transaction, so
    nothing is announced that was rolled back, and nothing committed is kept quiet by a process that dies.

How to call it
    Last in the transaction, after every other row is locked: `await events.write(connection, event, ...)`.
    A transaction that waits for other rows while it holds a trail could deadlock with one that does the
    reverse.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from uuid import UUID

import orjson

from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.listening import listening
from tmi.domain.errors import NotFound
from tmi.domain.events import (
    CHANGES_MAX_BYTES,
    Actor,
    ChangeType,
    Difference,
    Event,
    ObjectType,
    Recorded,
)
from tmi.domain.ids import EventId, Seq, ThreatModelId, UserId
from tmi.domain.ports import COUNTED_MAX, EventFilter, EventPage, Page
from tmi.domain.webhooks import notices_of

CHANNEL = "tmi_events"
"""A channel of its own: services of earlier versions take an unknown signal for one that they missed."""

TRAIL_LOCK = 0x746D6902
"""The first of two keys of the advisory locks of trails; the second is the threat model's hash."""

LOCK_AND_TELL = """
SELECT pg_advisory_xact_lock($1, hashtext(model)), pg_notify($2, model) FROM unnest($3::text[]) AS m (model)
"""

WRITE = """
WITH given AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::uuid[], $8::text[],
        $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::bigint[], $15::jsonb[]
    ) WITH ORDINALITY AS g (id, created_at, threat_model_id, object_type, object_id, change_type, actor_id,
        provider, provider_id, email, name, version, summary, seq, state, place)
), written AS (
    INSERT INTO events (id, created_at, threat_model_id, object_type, object_id, change_type, actor_id,
        provider, provider_id, email, name, version, summary, seq)
    SELECT id, created_at, threat_model_id, object_type, object_id, change_type, actor_id,
        provider, provider_id, email, name, version, summary, seq
    FROM given ORDER BY place
    ON CONFLICT (id) DO NOTHING
    RETURNING number, id, threat_model_id
), kept AS (
    INSERT INTO event_states (number, created_at, object_id, state)
    SELECT w.number, g.created_at, g.object_id, g.state FROM written w JOIN given g ON g.id = w.id
    WHERE g.state IS NOT NULL
)
INSERT INTO webhook_deliveries (id, subscription_id, event_type, payload)
SELECT webhook_delivery_id(), s.id, n.event_type, n.payload
FROM unnest($16::uuid[], $17::text[], $18::text[]) AS n (event_id, event_type, payload)
JOIN written w ON w.id = n.event_id
JOIN webhook_subscriptions s ON s.status = 'active' AND n.event_type = ANY (s.events)
    AND (s.threat_model_id IS NULL OR s.threat_model_id = w.threat_model_id)
"""
"""The events, their states, and a delivery for each webhook that wants one (outbox.py)."""

COLUMNS = """
e.number, e.id, e.created_at, e.threat_model_id, e.object_type, e.object_id, e.change_type, e.actor_id,
e.provider, e.provider_id, e.email, e.name, e.version, e.summary, e.seq,
e.seq IS NOT NULL OR EXISTS (SELECT FROM event_states s WHERE s.number = e.number) AS is_kept
"""

CONDITIONS = (
    "e.threat_model_id = ${}",
    "e.object_type = ${}",
    "e.change_type = ${}",
    "lower(e.email) = lower(${})",
    "e.provider = ${}",
    "e.created_at > ${}",
    "e.created_at < ${}",
)
"""What each filter of `_filters` asks for. Only those that are there get into a statement, so that it is
planned for the index that they call for.
"""

OF_OBJECT = "WHERE e.object_id = $1 AND e.threat_model_id = $2 AND e.object_type = $3"
OBJECT_TOTAL = f"SELECT count(*) FROM (SELECT FROM events e {OF_OBJECT} LIMIT {COUNTED_MAX}) counted"
OBJECT_PAGE = f"SELECT {COLUMNS} FROM events e {OF_OBJECT} ORDER BY e.number DESC LIMIT $4 OFFSET $5"

GET = f"""
SELECT {COLUMNS}, coalesce(
    (SELECT s.state FROM event_states s WHERE s.number = e.number),
    (SELECT s.state FROM event_states s WHERE e.seq IS NOT NULL AND s.object_id = e.object_id
         AND s.created_at <= e.created_at ORDER BY s.number DESC LIMIT 1)
) AS state
FROM events e WHERE e.id = $1
"""

CHANGES = """
SELECT e.number, d.before::text AS before, d.after::text AS after, d.omitted
FROM events e JOIN event_states s ON s.number = e.number
LEFT JOIN LATERAL (
    SELECT b.state FROM event_states b WHERE b.object_id = s.object_id AND b.number < s.number
        AND e.change_type <> 'created'
    ORDER BY b.number DESC LIMIT 1
) b ON true
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_object_agg(key, old) FILTER (WHERE old IS NOT NULL AND total <= $2), '{}')
               AS before,
           coalesce(jsonb_object_agg(key, new) FILTER (WHERE new IS NOT NULL AND total <= $2), '{}')
               AS after,
           coalesce(array_agg(key ORDER BY key) FILTER (WHERE total > $2), '{}') AS omitted
    FROM (
        SELECT key, old, new, sum(size) OVER (ORDER BY size, key) AS total
        FROM (
            SELECT key, o.value AS old, n.value AS new,
                coalesce(octet_length(o.value::text), 0) + coalesce(octet_length(n.value::text), 0) AS size
            FROM jsonb_each(coalesce(b.state, '{}')) o FULL JOIN jsonb_each(s.state) n USING (key)
            WHERE coalesce(o.value, 'null') <> coalesce(n.value, 'null')
        ) differing
    ) counted
) d
WHERE e.number = ANY($1::bigint[]) AND (e.change_type = 'created' OR b.state IS NOT NULL)
"""
"""As `Difference.between` has it: of what did not change, no byte is sent."""

LAST_NUMBER = 2**63 - 1

LAST = "SELECT max(number) AS last FROM events WHERE threat_model_id = $1"

SINCE = f"""
SELECT {COLUMNS} FROM events e WHERE e.threat_model_id = $1 AND e.number > $2 ORDER BY e.number LIMIT $3
"""

PURGE = """
WITH old AS MATERIALIZED (
    SELECT number FROM events WHERE created_at < $1 ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
), old_states AS MATERIALIZED (
    SELECT number FROM event_states WHERE created_at < greatest($1, $2) ORDER BY created_at LIMIT $3
    FOR UPDATE SKIP LOCKED
), states AS (
    DELETE FROM event_states s USING old_states o WHERE s.number = o.number RETURNING 1
), gone AS (
    DELETE FROM events e USING old o WHERE e.number = o.number RETURNING 1
)
SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM states) AS purged
"""


async def write(connection: PooledConnection, *events: Event) -> None:
    """Add events, in their order, last in a transaction of the caller; see the module."""
    if not events:
        return
    models = sorted({str(event.threat_model) for event in events})
    await connection.execute(LOCK_AND_TELL, TRAIL_LOCK, CHANNEL, models)
    columns = zip(*(_columns(event) for event in events), strict=True)
    notices = [
        (event.id, event_type, orjson.dumps(payload).decode())
        for event in events
        for event_type, payload in notices_of(event)
    ]
    await connection.execute(WRITE, *map(list, columns), *map(list, zip(*notices, strict=True)))


class PostgresTrail:
    """The port `Trail`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def page(self, wanted: EventFilter, limit: int, cursor: int | None, *, newer: bool) -> EventPage:
        """The events after (`newer`: before) a place in the list, from its newest end without one."""
        given = zip(CONDITIONS, _filters(wanted), strict=True)
        present = [(condition, value) for condition, value in given if value is not None]
        values = [value for _, value in present]
        where = " AND ".join(["true", *(sql.format(place) for place, (sql, _) in enumerate(present, 1))])
        counted = f"SELECT count(*) FROM (SELECT FROM events e WHERE {where} LIMIT {COUNTED_MAX}) c"
        place, limited = f"${len(values) + 1}", f"LIMIT ${len(values) + 2}"
        older, newer_ = f"{where} AND e.number < {place}", f"{where} AND e.number > {place}"
        if newer:
            sql = f"SELECT {COLUMNS} FROM events e WHERE {newer_} ORDER BY e.number {limited}"
        else:
            sql = f"SELECT {COLUMNS} FROM events e WHERE {older} ORDER BY e.number DESC {limited}"

        async def work(connection: PooledConnection) -> EventPage:
            total = await connection.fetchval(counted, *values)
            from_ = cursor if cursor is not None else 0 if newer else LAST_NUMBER
            rows = await connection.fetch(sql, *values, from_, limit)
            if newer:
                rows.reverse()
            if not rows:
                return EventPage([], total, None, None)
            first, last = rows[0]["number"], rows[-1]["number"]
            is_newer = await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM events e WHERE {newer_})", *values, first
            )
            is_older = await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM events e WHERE {older})", *values, last
            )
            found = [_recorded(row) for row in rows]
            return EventPage(found, total, last if is_older else None, first if is_newer else None)

        return await self._database.read_with(work)

    async def of_object(
        self, model: ThreatModelId, object_type: ObjectType, key: UUID, page: Page
    ) -> tuple[Sequence[Recorded], int]:
        """A page of the events of one object, newest first, and their total."""
        which = (key, model, object_type.value)
        total = await self._database.read(OBJECT_TOTAL, *which)
        rows = await self._database.read(OBJECT_PAGE, *which, page.limit, page.offset)
        return [_recorded(row) for row in rows], int(total[0]["count"])

    async def get(self, event: EventId) -> Recorded:
        """An event with its state, if that is kept; see the port. Raises NotFound."""
        rows = await self._database.read(GET, event)
        if not rows:
            raise NotFound("There is no such audit entry.")
        return _recorded(rows[0], rows[0]["state"])

    async def changes(self, numbers: Sequence[int]) -> Mapping[int, Difference]:
        """What these events changed, where that is known."""
        found = await self._database.read(CHANGES, numbers, CHANGES_MAX_BYTES)
        return {
            row["number"]: Difference(
                orjson.loads(row["before"]), orjson.loads(row["after"]), tuple(row["omitted"])
            )
            for row in found
        }

    async def purge(self, before: datetime, states_before: datetime, rows: int) -> int:
        """Delete up to `rows` events that are older, and as many states; returns how many went."""
        return int((await self._database.fetch(PURGE, before, states_before, rows))[0]["purged"])


class PostgresFeed:
    """The port `Feed`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def last(self, model: ThreatModelId) -> int:
        """The number of a threat model's newest event; 0 where there is none."""
        return int((await self._database.read(LAST, model))[0]["last"] or 0)

    async def since(self, model: ThreatModelId, number: int, limit: int) -> Sequence[Recorded]:
        """The first `limit` events of a threat model after a number, oldest first, without states."""
        return [_recorded(row) for row in await self._database.read(SINCE, model, number, limit)]

    def hearing(
        self, handle: Callable[[ThreatModelId | None], None]
    ) -> AbstractAsyncContextManager[object]:
        """Listen while the body runs. Raises DatabaseUnavailable if that cannot be begun."""

        def heard(payload: str) -> None:
            handle(ThreatModelId(UUID(payload)))

        return listening(self._database.connect_aside, CHANNEL, heard, lambda: handle(None))


def _columns(event: Event) -> tuple[object, ...]:
    return (
        event.id,
        event.at,
        event.threat_model,
        event.object_type.value,
        event.object_id,
        event.change.value,
        event.actor.user,
        event.actor.provider,
        event.actor.provider_id,
        event.actor.email,
        event.actor.name,
        event.version,
        event.summary,
        event.seq,
        None if event.state is None else orjson.dumps(event.state).decode(),
    )


def _filters(wanted: EventFilter) -> tuple[object, ...]:
    return (
        wanted.threat_model,
        None if wanted.object_type is None else wanted.object_type.value,
        None if wanted.change is None else wanted.change.value,
        wanted.email,
        wanted.provider,
        wanted.after,
        wanted.before,
    )


def _recorded(row: Record, state: str | None = None) -> Recorded:
    user = row["actor_id"]
    event = Event(
        id=EventId(row["id"]),
        at=row["created_at"],
        threat_model=ThreatModelId(row["threat_model_id"]),
        object_type=ObjectType(row["object_type"]),
        object_id=row["object_id"],
        change=ChangeType(row["change_type"]),
        actor=Actor(
            None if user is None else UserId(user),
            row["provider"],
            row["provider_id"],
            row["email"],
            row["name"],
        ),
        version=row["version"],
        state=None if state is None else orjson.loads(state),
        summary=row["summary"],
        seq=None if row["seq"] is None else Seq(row["seq"]),
    )
    return Recorded(row["number"], event, row["is_kept"])
