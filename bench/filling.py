"""Test data of a size that takes REST six minutes: written into the database of a server started here.

This is the one place of the load tester that does not go over the wire, and that knows TMI's tables; no load
is measured meanwhile.
Rows are as REST would have made them: aliases, grants, and counters and usage by the database's own triggers.
Events are left out, since reads ask for none. Statistics and the visibility map are brought up to date
afterwards, as the autovacuum of a database does that has had its data for a while.
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from bench.servers import Account


BATCH = 500
"""Threat models at a time, so that the triggers' tables of changed rows stay in memory."""
TIMEOUT_S = 300.0

MODELS = """
WITH next AS (UPDATE threat_model_aliases SET last = last + $2 RETURNING last - $2 AS before)
INSERT INTO threat_models
    (id, alias, name, description, threat_model_framework, is_confidential, created_by)
SELECT md5($1 || n)::uuid, before + n + 1, 'model ' || n || ', name 0',
       'One of the threat models of a load test, with a description of some length, as people write them.',
       'STRIDE', false, u.id
FROM next, users u, generate_series(0, $2::int - 1) AS n
WHERE u.provider = 'tmi' AND u.email = $3
ORDER BY n
"""

GRANTS = """
INSERT INTO grants
    (threat_model_id, position, principal_type, provider, provider_id, email, display_name, role)
SELECT md5($1 || n)::uuid, 0, 'user', u.provider, u.provider_id, u.email, u.name, 3
FROM users u, generate_series(0, $2::int - 1) AS n WHERE u.provider = 'tmi' AND u.email = $3
"""

THREATS = """
INSERT INTO children (id, threat_model_id, kind, alias, fields)
SELECT md5($1 || n || '/' || k)::uuid, md5($1 || n)::uuid, 'threat', k + 1, jsonb_build_object(
           'name', 'threat ' || k || ' of model ' || n,
           'description', 'Somebody who controls the network reads or changes what is on its way.',
           'mitigation', 'Speak TLS 1.3 alone, and check certificates.',
           'severity', (ARRAY['low', 'medium', 'high', 'critical'])[1 + (n + k) % 4],
           'score', ((n * 7 + k * 13) % 101) / 10.0, 'priority', 'P' || k % 4, 'mitigated', k % 3 = 0,
           'status', 'open', 'threat_type', jsonb_build_array('Tampering', 'Information disclosure'),
           'include_in_report', true, 'timmy_enabled', true)
FROM generate_series($2::int, $3::int - 1) AS n, generate_series(0, $4::int - 1) AS k
ORDER BY k / 20, n, k
"""
"""A model's threats lie in the table by twenties, as bulk operations leave them."""

SETTLE = ("threat_models", "grants", "children", "child_counters")


class FillingError(Exception):
    """The database could not be filled."""


@dataclass(frozen=True, eq=False)
class Filling:
    """So many threat models with so many threats each, of one user who has no others."""

    account: "Account"
    salt: str
    """What all ids are made of, by which they are known here without being read."""
    models: int
    threats: int

    def model_id(self, number: int) -> str:
        return str(uuid.UUID(_digest(f"{self.salt}{number}")))

    def threat_id(self, number: int, threat: int) -> str:
        return str(uuid.UUID(_digest(f"{self.salt}{number}/{threat}")))


async def fill(dsn: str, account: "Account", models: int, threats: int) -> Filling:
    """Write the data of a user who has signed in. Raises `FillingError`."""
    try:
        return await _filled(dsn, account, models, threats)
    except (OSError, asyncpg.PostgresError) as error:
        raise FillingError(f"the database could not be filled: {error!r}") from error


async def _filled(dsn: str, account: "Account", models: int, threats: int) -> Filling:
    filling = Filling(account, f"{uuid.uuid4()}/", models, threats)
    connection = await asyncpg.connect(dsn, command_timeout=TIMEOUT_S)
    try:
        await connection.execute("SET synchronous_commit = off")
        async with connection.transaction():
            await connection.execute(MODELS, filling.salt, models, account.email)
            await connection.execute(GRANTS, filling.salt, models, account.email)
        for start in range(0, models, BATCH):
            if threats:
                end = min(start + BATCH, models)
                await connection.execute(THREATS, filling.salt, start, end, threats)
        for table in SETTLE:
            await connection.execute(f"VACUUM (ANALYZE) {table}")
    finally:
        await connection.close()
    return filling


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
