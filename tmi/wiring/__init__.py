"""The only place that constructs adapters and joins them to the inside of TMI."""

from tmi.wiring.database import DATABASE_CLOSE_S, database_held, open_database
from tmi.wiring.keys import Keys, open_keys
from tmi.wiring.nodes import Worker, open_administration
from tmi.wiring.service import Service, build

__all__ = [
    "DATABASE_CLOSE_S",
    "Keys",
    "Service",
    "Worker",
    "build",
    "database_held",
    "open_administration",
    "open_database",
    "open_keys",
]
