"""Edits of cells in memory, as events of the trail."""

from datetime import datetime, timedelta
from typing import Literal

from persistence.memory.events import write
from persistence.memory.store import MemoryStore, RoomLog
from tmi.domain.errors import NotFound
from tmi.domain.events import CellsEdited, Event
from tmi.domain.ids import DiagramId, Seq, ThreatModelId, UserId
from tmi.domain.model import Diagram
from tmi.domain.ports import LoggedUpdate, Origin, StoredDocument

_Kind = Literal["made", "brought", "server"]


class MemoryCellEdits:
    """The port `CellEdits`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def tell_of(
        self, model: ThreatModelId, until: datetime, diagram: DiagramId | None = None
    ) -> int:
        """Tell of what was edited in a threat model's diagrams, or in one, before `until`."""
        self._store.visit()
        found = self._store.diagrams_of(model)
        return sum(self._tell(one, until) for one in found if diagram in (None, one.id))

    async def tell_next(self, after: DiagramId | None, diagrams: int, until: datetime) -> DiagramId | None:
        """The same for the next so many diagrams of all."""
        self._store.visit()
        ids = sorted(key for key in self._store.diagrams if after is None or key > after)[:diagrams]
        for key in ids:
            self._tell(self._store.diagrams[key], until)
        return ids[-1] if len(ids) == diagrams else None

    async def document(self, diagram: DiagramId, seq: Seq) -> StoredDocument:
        """The document as it was after an update. Raises NotFound."""
        self._store.visit()
        log = self._store.log(diagram)
        if not 0 <= seq <= len(log.rows):
            raise NotFound("There is no such update.")
        snapshot_seq = max((key for key in log.snapshots if key <= seq), default=Seq(0))
        snapshot, is_whole = log.snapshots.get(snapshot_seq, (None, False))
        tail = tuple(update.data for _, update in log.rows[snapshot_seq:seq])
        return StoredDocument(snapshot, snapshot_seq, tail, seq, is_whole)

    def _tell(self, diagram: Diagram, until: datetime) -> int:
        log = self._store.logs[diagram.id]
        told = {e.seq for e in self._store.events.values() if e.object_id == diagram.id}
        groups: dict[tuple[datetime, UserId | None, _Kind], list[Seq]] = {}
        minute = datetime.min.replace(tzinfo=until.tzinfo)
        for at, (_, update) in list(zip(log.times, log.rows, strict=True))[log.told :]:
            minute = max(minute, at - timedelta(seconds=at.second, microseconds=at.microsecond))
            if minute >= until:
                break
            log.told = update.seq
            if update.origin is not Origin.REST or update.seq not in told:
                groups.setdefault((minute, update.author, _kind(update)), []).append(update.seq)
        edited = [self._edited(log, author, kind, seqs) for (_, author, kind), seqs in groups.items()]
        edited.sort(key=lambda edits: edits.last)
        model = diagram.threat_model_id
        write(self._store, *(Event.of_cells(e, model, diagram.id, self._store.users) for e in edited))
        return len(edited)

    @staticmethod
    def _edited(log: RoomLog, author: UserId | None, kind: _Kind, seqs: list[Seq]) -> CellsEdited:
        return CellsEdited(author, kind, seqs[0], seqs[-1], len(seqs), log.times[seqs[-1] - 1])


def _kind(update: LoggedUpdate) -> _Kind:
    if update.origin is Origin.SERVER:
        return "server"
    return "brought" if update.origin is Origin.SYNC else "made"
