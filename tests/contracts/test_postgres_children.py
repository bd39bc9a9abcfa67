"""Children on PostgreSQL: how pages are found."""

import asyncpg

from persistence.postgres.children import _which
from persistence.postgres.database import PostgresDatabase
from tests.contracts.conftest import postgres_ports
from tests.contracts.test_children import CREATED, draft
from tmi.domain.children import ChildFilter
from tmi.domain.kinds import THREAT


async def test_a_page_in_the_usual_order_is_found_in_an_index_alone(
    database: PostgresDatabase, database_url: str
) -> None:
    ports = postgres_ports(database)
    alice = await ports.user()
    for _ in range(5):
        model = await ports.model(alice)
        drafts = [draft(THREAT, description="x" * 500) for _ in range(100)]
        await ports.children.create(model.id, THREAT, drafts, CREATED)
    which, _ = _which(ChildFilter(descending=True))
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("VACUUM ANALYZE children")
        rows = await connection.fetch(f"EXPLAIN {which}", model.id, "threat", 20, 40)
    finally:
        await connection.close()

    plan = "\n".join(row[0] for row in rows)
    assert "Index Only Scan Backward using children_living" in plan
    assert 1 == plan.count("children_living")
    assert "Seq Scan on children" not in plan
    assert "using child_counters_pkey" in plan
