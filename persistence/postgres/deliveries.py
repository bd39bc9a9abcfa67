"""The log of webhooks' deliveries on PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.webhooks import not_found
from tmi.domain.errors import BadInput, NotFound
from tmi.domain.ids import DeliveryId, WebhookId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import COUNTED_MAX, Page
from tmi.domain.webhooks import Delivery, DeliveryStatus, payload_of_test

STATUS = "SELECT status FROM webhook_subscriptions WHERE id = $1 FOR SHARE"
NEW_ID = "SELECT webhook_delivery_id()"
ADD = """
INSERT INTO webhook_deliveries (id, subscription_id, event_type, payload) VALUES ($1, $2, $3, $4) RETURNING *
"""

GET = "SELECT * FROM webhook_deliveries WHERE id = $1"

ALL_TOTAL = f"SELECT count(*) FROM (SELECT FROM webhook_deliveries LIMIT {COUNTED_MAX}) counted"
ALL = "SELECT * FROM webhook_deliveries ORDER BY created_at DESC, id DESC LIMIT $1 OFFSET $2"
OF_ONE_TOTAL = f"""
SELECT count(*) FROM (SELECT FROM webhook_deliveries WHERE subscription_id = $1 LIMIT {COUNTED_MAX}) counted
"""
OF_ONE = """
SELECT * FROM webhook_deliveries WHERE subscription_id = $1
ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3
"""

PURGE = """
WITH gone AS (
    DELETE FROM webhook_deliveries WHERE id IN (
        SELECT id FROM webhook_deliveries WHERE created_at < $1 ORDER BY created_at LIMIT $2
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS purged FROM gone
"""


class PostgresDeliveries:
    """The port `Deliveries`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def test(self, webhook: WebhookId, event_type: str, entry: AuditEntry) -> Delivery:
        """Have a test delivered. Raises NotFound, and BadInput before the endpoint is verified."""
        async with self._database.transaction() as connection:
            status = await connection.fetchval(STATUS, webhook)
            if status is None:
                raise not_found()
            if status != "active":
                raise BadInput("the endpoint is not verified")
            key = DeliveryId(await connection.fetchval(NEW_ID))
            payload = payload_of_test(event_type, webhook, key, datetime.now(UTC))
            row = await connection.fetchrow(ADD, key, webhook, event_type, orjson.dumps(payload).decode())
            await write(connection, entry)
        assert row is not None
        return _delivery(row)

    async def get(self, delivery: DeliveryId) -> Delivery:
        """Raises NotFound."""
        found = await self._database.read(GET, delivery)
        if not found:
            raise NotFound("There is no such delivery.")
        return _delivery(found[0])

    async def page(self, webhook: WebhookId | None, page: Page) -> tuple[Sequence[Delivery], int]:
        """A page, newest first, and the total, which is counted up to COUNTED_MAX."""
        which = () if webhook is None else (webhook,)
        total, rows = (ALL_TOTAL, ALL) if webhook is None else (OF_ONE_TOTAL, OF_ONE)

        async def work(connection: PooledConnection) -> tuple[Sequence[Delivery], int]:
            found = await connection.fetch(rows, *which, page.limit, page.offset)
            return [_delivery(row) for row in found], await connection.fetchval(total, *which)

        return await self._database.read_with(work)

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` that are older, those that wait included; returns how many went."""
        return int((await self._database.fetch(PURGE, before, rows))[0]["purged"])


def _delivery(row: Record) -> Delivery:
    return Delivery(
        id=DeliveryId(row["id"]),
        webhook=WebhookId(row["subscription_id"]),
        event_type=row["event_type"],
        payload=row["payload"],
        status=DeliveryStatus(row["status"]),
        attempts=row["attempts"],
        due_at=row["due_at"],
        last_error=row["last_error"],
        created_at=row["created_at"],
        active_at=row["active_at"],
        delivered_at=row["delivered_at"],
    )
