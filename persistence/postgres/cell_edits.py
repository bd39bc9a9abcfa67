"""Edits of cells on PostgreSQL, as events of the trail.

A row of `diagram_updates` is the event of its edit, and appends write nothing else. What is told of them in
the trail is worked out afterwards: for each diagram a row of `diagram_trails` says up to which update that is
done. Whoever holds its lock reads on from there, in whole minutes, writes the events, moves the mark in one
transaction. So every update is told of once: after a crash the same work is done again, and of several nodes
that look at a diagram at once one does it.

Diagrams are told of together, some in a transaction. Of 400 diagrams with 110 edits each that took 35 to 76
ms of the process and 78 to 92 of PostgreSQL; one at a time 285 to 303 and 274 to 304, and meanwhile nobody's
messages were gathered, as somebody waited for the database (api/live/moderation.py).

The minute of an update is that of the newest one up to it: so it never falls when a clock does, and minutes
are consecutive spans of numbers.

A REST write of a diagram has an event of its own, which names its update; that is not told of twice. If the
node died between the two, the update is told of like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import asyncpg

from persistence.postgres import events, rows
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.update_log import ORIGINS
from tmi.domain.errors import NotFound
from tmi.domain.events import CellsEdited, Event
from tmi.domain.ids import DiagramId, Seq, ThreatModelId, UserId
from tmi.domain.model import User
from tmi.domain.ports import Origin, StoredDocument

DIAGRAMS_MAX = 200
"""Of one threat model at a time."""
UPDATES_MAX = 50_000
"""Of one diagram at a time; read without their bytes, each takes a microsecond or two. Diagrams are told of
together while they have no more than that.
"""
TOGETHER_MAX = 50
"""Diagrams in a transaction: what their events take of the event loop at a time is a few milliseconds."""

OF_MODEL = "SELECT id, threat_model_id FROM diagrams WHERE threat_model_id = $1 ORDER BY id LIMIT $2"
ONE = "SELECT id, threat_model_id FROM diagrams WHERE id = $1 AND threat_model_id = $2"
NEXT = "SELECT id, threat_model_id FROM diagrams WHERE id > $1 ORDER BY id LIMIT $2"

DUE = """
SELECT d.id, last.seq - coalesce(t.seq, 0) AS updates
FROM unnest($1::uuid[]) AS d (id)
LEFT JOIN diagram_trails t ON t.diagram_id = d.id
CROSS JOIN LATERAL (
    SELECT u.created_at FROM diagram_updates u WHERE u.diagram_id = d.id AND u.seq > coalesce(t.seq, 0)
    ORDER BY u.seq LIMIT 1
) first
CROSS JOIN LATERAL (
    SELECT u.seq FROM diagram_updates u WHERE u.diagram_id = d.id ORDER BY u.seq DESC LIMIT 1
) last
WHERE first.created_at < $2
ORDER BY d.id
"""

BEGIN = """
INSERT INTO diagram_trails (diagram_id) SELECT id FROM diagrams WHERE id = ANY($1::uuid[]) ORDER BY id
ON CONFLICT (diagram_id) DO NOTHING
"""
LOCK = "SELECT diagram_id, seq FROM diagram_trails WHERE diagram_id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED"
MARK = """
UPDATE diagram_trails t SET seq = m.seq FROM unnest($1::uuid[], $2::bigint[]) AS m (diagram_id, seq)
WHERE t.diagram_id = m.diagram_id
"""

EDITS = f"""
SELECT d.id, told.* FROM unnest($1::uuid[], $2::bigint[]) AS d (id, mark) CROSS JOIN LATERAL (
    WITH fresh AS (
        SELECT u.seq, u.author, u.created_at,
               max(date_trunc('minute', u.created_at, 'UTC')) OVER (ORDER BY u.seq) AS minute,
               CASE u.origin
                   WHEN {ORIGINS[Origin.SYNC]} THEN 'brought'
                   WHEN {ORIGINS[Origin.SERVER]} THEN 'server'
                   WHEN {ORIGINS[Origin.REST]} THEN
                       CASE WHEN u.seq IN (
                           SELECT e.seq FROM events e WHERE e.object_id = d.id AND e.seq > d.mark
                       ) THEN 'told' ELSE 'made' END
                   ELSE 'made'
               END AS kind
        FROM diagram_updates u WHERE u.diagram_id = d.id AND u.seq > d.mark ORDER BY u.seq LIMIT $4
    )
    SELECT minute, author, kind, min(seq) AS first, max(seq) AS last, count(*) AS edits, max(created_at) AS at
    FROM fresh WHERE minute < $3 GROUP BY minute, author, kind
) told
ORDER BY d.id, told.last
"""

AUTHORS = "SELECT * FROM users WHERE id = ANY($1::uuid[])"

LAST = """
SELECT coalesce((SELECT max(u.seq) FROM diagram_updates u WHERE u.diagram_id = f.diagram_id), 0) AS last
FROM diagram_fences f WHERE f.diagram_id = $1
"""
SNAPSHOT = """
SELECT seq, state, is_whole FROM diagram_snapshots WHERE diagram_id = $1 AND seq <= $2
ORDER BY seq DESC LIMIT 1
"""
TAIL = "SELECT data FROM diagram_updates WHERE diagram_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq"

_FIRST = UUID(int=0)


class PostgresCellEdits:
    """The port `CellEdits`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def tell_of(
        self, model: ThreatModelId, until: datetime, diagram: DiagramId | None = None
    ) -> int:
        """Tell of what was edited in a threat model's diagrams, or in one, before `until`."""
        if diagram is None:
            found = await self._database.read(OF_MODEL, model, DIAGRAMS_MAX)
        else:
            found = await self._database.read(ONE, diagram, model)
        return await self._tell(found, until)

    async def tell_next(self, after: DiagramId | None, diagrams: int, until: datetime) -> DiagramId | None:
        """The same for the next so many diagrams of all; returns the last of them, None after the last."""
        found = await self._database.read(NEXT, after or _FIRST, diagrams)
        await self._tell(found, until)
        return DiagramId(found[-1]["id"]) if len(found) == diagrams else None

    async def document(self, diagram: DiagramId, seq: Seq) -> StoredDocument:
        """The document as it was after an update. Raises NotFound."""

        async def work(connection: PooledConnection) -> StoredDocument:
            last = await connection.fetchval(LAST, diagram)
            if last is None or not 0 <= seq <= last:
                raise NotFound("There is no such update.")
            found = await connection.fetchrow(SNAPSHOT, diagram, seq)
            begin = 0 if found is None else found["seq"]
            tail = tuple(row["data"] for row in await connection.fetch(TAIL, diagram, begin, seq))
            snapshot, is_whole = (None, False) if found is None else (found["state"], found["is_whole"])
            return StoredDocument(snapshot, Seq(begin), tail, seq, is_whole)

        return await self._database.read_with(work)

    async def _tell(self, diagrams: Sequence[Record], until: datetime) -> int:
        models = {DiagramId(row["id"]): ThreatModelId(row["threat_model_id"]) for row in diagrams}
        due = await self._database.read(DUE, list(models), until) if models else []
        told = 0
        for some in _together(due):
            told += await self._tell_some({diagram: models[diagram] for diagram in some}, until)
        return told

    async def _tell_some(self, models: Mapping[DiagramId, ThreatModelId], until: datetime) -> int:
        try:
            async with self._database.transaction() as connection:
                return await _told(connection, models, until)
        except asyncpg.ForeignKeyViolationError:
            # A diagram went meanwhile: of the others is told one by one.
            if len(models) == 1:
                return 0
        return sum([await self._tell_some({diagram: model}, until) for diagram, model in models.items()])


def _together(due: Sequence[Record]) -> Iterator[Sequence[DiagramId]]:
    some: list[DiagramId] = []
    updates = 0
    for row in due:
        if some and (len(some) == TOGETHER_MAX or updates + row["updates"] > UPDATES_MAX):
            yield some
            some, updates = [], 0
        some.append(DiagramId(row["id"]))
        updates += row["updates"]
    if some:
        yield some


async def _told(
    connection: PooledConnection, models: Mapping[DiagramId, ThreatModelId], until: datetime
) -> int:
    await connection.execute(BEGIN, list(models))
    # Who is missing has somebody else at it.
    marks = await connection.fetch(LOCK, list(models))
    ids, seqs = [row["diagram_id"] for row in marks], [row["seq"] for row in marks]
    found = await connection.fetch(EDITS, ids, seqs, until, UPDATES_MAX) if marks else []
    if not found:
        return 0
    of_diagrams = {
        DiagramId(key): _whole_minutes(list(rows)) for key, rows in groupby(found, itemgetter("id"))
    }
    edited = [
        (diagram, _edited(row))
        for diagram, rows in of_diagrams.items()
        for row in rows
        if row["kind"] != "told"
    ]
    users = await _users(connection, {edits.author for _, edits in edited if edits.author is not None})
    last = [max(row["last"] for row in rows) for rows in of_diagrams.values()]
    await connection.execute(MARK, list(of_diagrams), last)
    await events.write(
        connection, *(Event.of_cells(edits, models[diagram], diagram, users) for diagram, edits in edited)
    )
    return len(edited)


def _whole_minutes(found: Sequence[Record]) -> Sequence[Record]:
    if sum(row["edits"] for row in found) < UPDATES_MAX:
        return found
    # The last minute may have more: it is told of as a whole, unless it is that long.
    return [row for row in found if row["minute"] < found[-1]["minute"]] or found


def _edited(row: Record) -> CellsEdited:
    author = None if row["author"] is None else UserId(row["author"])
    return CellsEdited(author, row["kind"], Seq(row["first"]), Seq(row["last"]), row["edits"], row["at"])


async def _users(connection: PooledConnection, ids: set[UserId]) -> dict[UserId, User]:
    found = await connection.fetch(AUTHORS, list(ids)) if ids else []
    return {user.id: user for user in map(rows.user, found)}
