"""PostgreSQL by asyncpg: the only home of asyncpg."""
