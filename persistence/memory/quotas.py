"""Quotas in memory. What users are charged for is counted when somebody asks."""

import json
from collections.abc import Sequence
from dataclasses import replace

from persistence.memory.store import MemoryStore, RoomLog
from tmi.domain.children import Child
from tmi.domain.errors import NotFound, QuotaReached, StorageFull
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.kinds import BY_NAME
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.quotas import Allowance, Limits, Quota, Usage

OVER_MAX = 10_000


def hold_to_it(store: MemoryStore, payer: UserId | None, defaults: Limits, created: str) -> None:
    """Called before one more of `created` is stored. Raises QuotaReached."""
    if payer is None:
        return
    quota = store.quotas.get(payer)
    limits = defaults if quota is None else quota.allowance.instead_of(defaults)
    used = usage_of(store, payer)
    limit = getattr(limits, created)
    if limit and getattr(used, created) >= limit:
        raise QuotaReached(created, limit, "who is charged for this threat model")
    if limits.stored_bytes and used.stored_bytes > limits.stored_bytes:
        raise StorageFull("stored_bytes", limits.stored_bytes, "who is charged for this threat model")


def usage_of(store: MemoryStore, user: UserId) -> Usage:
    """What a user is charged for, with what is deleted and can be restored."""
    there = {*store.threat_models, *store.deleted_models}
    models = {model for model in there if store.charged_to.get(model) == user}
    logs = [store.logs[key] for key, d in store.diagrams.items() if d.threat_model_id in models]
    logs += [log for d, log in store.deleted_diagrams.values() if d.threat_model_id in models]
    children = [child for child in store.children.values() if child.threat_model_id in models]
    size = sum(map(_size_of, logs)) + sum(map(_weight_of, children))
    return Usage(len(models), len(logs), size)


def _size_of(log: RoomLog) -> int:
    """Snapshots and the updates up to the last of them."""
    counted = log.rows[: max(log.snapshots, default=0)]
    return sum(len(u.data) for _, u in counted) + sum(len(state) for state, _ in log.snapshots.values())


def _weight_of(child: Child) -> int:
    """As in migration 0023, where JSON has spaces: `{"a": "b"}`."""
    bulky = BY_NAME[child.kind].apart
    content = str(child.fields.get(bulky, "")) if bulky else ""
    metadata = json.dumps(dict(child.metadata), ensure_ascii=False)
    return 1024 + len(content.encode()) + len(metadata.encode())


class MemoryQuotas:
    """The port `Quotas`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of(self, user: UserId) -> Quota | None:
        """None: the limits of everybody hold."""
        self._store.visit()
        return self._store.quotas.get(user)

    async def page(self, page: Page) -> tuple[Sequence[Quota], int]:
        """A page, oldest first, and the total."""
        self._store.visit()
        quotas = sorted(self._store.quotas.values(), key=lambda q: (q.created_at, q.user))
        return quotas[page.offset : page.offset + page.limit], len(quotas)

    async def put(self, user: UserId, allowance: Allowance, entry: AuditEntry) -> tuple[Quota, bool]:
        """Set a user's allowance. Raises NotFound."""
        self._store.visit()
        if user not in self._store.users:
            raise NotFound("There is no such user.")
        now, present = self._store.clock(), self._store.quotas.get(user)
        quota = Quota(user, allowance, now, now)
        if present is not None:
            quota = replace(quota, created_at=present.created_at)
        self._store.quotas[user] = quota
        self._store.write_audit(entry)
        return quota, present is None

    async def remove(self, user: UserId, entry: AuditEntry) -> None:
        """Raises NotFound where the limits of everybody hold already."""
        self._store.visit()
        if self._store.quotas.pop(user, None) is None:
            raise NotFound("This user has no quota of their own.")
        self._store.write_audit(entry)


class MemoryStorage:
    """The port `Storage`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def usage(self, user: UserId) -> Usage:
        """Nothing for somebody who is not known."""
        self._store.visit()
        return usage_of(self._store, user)

    async def payers_over(self, default: int) -> frozenset[UserId]:
        """Who has more stored bytes than allowed."""
        self._store.visit()
        over = [user for user in self._store.users if self._limit_passed(user, default) is not None]
        return frozenset(over[:OVER_MAX])

    async def limit_passed(self, model: ThreatModelId, default: int) -> int | None:
        """How many bytes who is charged for a threat model may store; None unless they store more."""
        self._store.visit()
        payer = self._store.charged_to.get(model)
        return None if payer is None else self._limit_passed(payer, default)

    async def paid_by(self, diagrams: Sequence[DiagramId], users: frozenset[UserId]) -> frozenset[DiagramId]:
        """Those of `diagrams` for which one of `users` is charged."""
        self._store.visit()
        return frozenset(d for d in diagrams if self._payer(d) in users)

    def _limit_passed(self, user: UserId, default: int) -> int | None:
        quota = self._store.quotas.get(user)
        own = None if quota is None else quota.allowance.stored_bytes
        limit = default if own is None else own
        return limit if limit and usage_of(self._store, user).stored_bytes > limit else None

    def _payer(self, diagram: DiagramId) -> UserId | None:
        found = self._store.diagrams.get(diagram)
        return None if found is None else self._store.charged_to.get(ThreatModelId(found.threat_model_id))
