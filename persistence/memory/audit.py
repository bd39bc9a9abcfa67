"""The system audit in memory: a list, oldest first; an entry's number is its place, from 1."""

from collections.abc import Callable
from datetime import datetime

from persistence.memory.store import MemoryStore
from tmi.domain.errors import NotFound
from tmi.domain.ids import AuditId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import AuditFilter, AuditPage


class MemoryAudit:
    """The port `Audit`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def record(self, entry: AuditEntry) -> None:
        """Add an entry of its own."""
        self._store.visit()
        self._store.write_audit(entry, is_change=False)

    async def page(self, wanted: AuditFilter, limit: int, cursor: int | None, *, newer: bool) -> AuditPage:
        """The entries after (`newer`: before) a place in the list, from its newest end without one."""
        self._store.visit()
        matching = [(number, e) for number, e in self._store.audit.items() if _matches(wanted, e)]
        if newer:
            shown = [(n, e) for n, e in matching if cursor is None or n > cursor][:limit][::-1]
        else:
            shown = [(n, e) for n, e in reversed(matching) if cursor is None or n < cursor][:limit]
        if not shown:
            return AuditPage([], len(matching), None, None)
        first, last = shown[0][0], shown[-1][0]
        return AuditPage(
            [entry for _, entry in shown],
            len(matching),
            last if matching[0][0] < last else None,
            first if matching[-1][0] > first else None,
        )

    async def place_of(self, entry: AuditId) -> int:
        """The cursor from which on a page begins with this entry. Raises NotFound."""
        self._store.visit()
        return self._found(entry)[0] + 1

    async def get(self, entry: AuditId) -> AuditEntry:
        """Raises NotFound."""
        self._store.visit()
        return self._found(entry)[1]

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` entries that are older; returns how many went."""
        self._store.visit()
        old = [number for number, entry in self._store.audit.items() if entry.at < before][:rows]
        for number in old:
            del self._store.audit[number]
        return len(old)

    def _found(self, key: AuditId) -> tuple[int, AuditEntry]:
        for number, entry in self._store.audit.items():
            if entry.id == key:
                return number, entry
        raise NotFound("There is no such audit entry.")


def _matches(wanted: AuditFilter, entry: AuditEntry) -> bool:
    tests: list[tuple[object, Callable[[], bool]]] = [
        (wanted.email, lambda: entry.email.lower() == str(wanted.email).lower()),
        (wanted.provider, lambda: entry.provider == wanted.provider),
        (wanted.after, lambda: wanted.after is not None and entry.at > wanted.after),
        (wanted.before, lambda: wanted.before is not None and entry.at < wanted.before),
        (wanted.method, lambda: entry.method == wanted.method),
        (wanted.path_prefix, lambda: entry.path.startswith(str(wanted.path_prefix))),
        (wanted.what, lambda: entry.what == wanted.what),
    ]
    return all(test() for value, test in tests if value is not None)
