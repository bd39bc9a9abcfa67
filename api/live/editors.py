"""Open editors are told of what happens to their threat model, on the socket that they have.

Their rooms stay out of it: what happens is read by `api/news.py`, as for the readers of server-sent
events, and written to the sockets of this node, whoever owns their rooms. Rooms say who is in them; nothing
is kept here of a socket, and of a diagram its id.

An editor that reads too slowly misses what happens meanwhile, and is told so: from which number on, it can
read from `GET /threat_models/{id}/events`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from api.news import New, News, Pair
from rooms.peer import Member, Peer
from rooms.service import Rooms
from rooms.session import Session
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.ports import Happened, Signal


@dataclass(frozen=True, slots=True)
class Notice:
    """What editors are told, beside what happens to their document."""

    text: str
    """JSON: `id`, `event` and for a change `data`, as server-sent events have them."""
    after: int
    """The number of what they were told before."""
    wires: dict[str, bytes] = field(default_factory=dict)
    """Frames, by the key of the document on its socket."""


class Informed:
    """A document on a socket whose protocol has a word for it."""

    __slots__ = ()

    def inform(self, notice: Notice) -> bool:
        """Tell it; False where it reads too slowly, and is told of that once it reads again. Never raises."""
        raise NotImplementedError


def missed(after: int) -> Notice:
    """Something has happened, and was not told: whatever came after a number."""
    return Notice(f'{{"id":"{after}","event":"missed"}}', after)


class Editors:
    """The open editors of this process; an `api.news.Audience`."""

    def __init__(self, rooms: Rooms, news: News) -> None:
        self._rooms = rooms
        self._news = news
        self._diagrams: dict[ThreatModelId, set[DiagramId]] = {}
        """That somebody opened, and may have left since."""
        self._shut_out: set[Pair] = set()
        """Who may not read any more, and may not have been sent away yet."""
        self.told = 0
        """Notices written."""
        self.missed = 0
        """Notices that somebody did not get who reads too slowly."""
        news.add(self)

    async def join(self, model: ThreatModelId, diagram: DiagramId, member: Member, document: Peer) -> Session:
        """As `Rooms.join`; what happens to the threat model from now on is told as well."""
        async with self._news.joining(model):
            session = await self._rooms.join(diagram, member, document)
            self._diagrams.setdefault(model, set()).add(diagram)
        if (member.user, model) in self._shut_out:
            self._news.look_soon([(member.user, model)])  # there may be a role again, of a group for example
        return session

    def hear(self, signal: Signal | None) -> None:
        """Something happened to people; None: something may have been missed."""
        if signal is not None and signal.happened is not Happened.PEOPLE_CHANGED:
            return  # rooms end the sessions of a sign-in themselves, and at once
        pairs = {(user, model) for model in list(self._diagrams) for user in self.users(model)}
        if signal is not None:
            people = set(signal.ids)
            pairs = {(user, model) for user, model in pairs if user in people}
        if pairs:
            self._news.look_soon(pairs)

    # --- see `api.news.Audience` ----------------------------------------------------------------

    def has(self, model: ThreatModelId) -> bool:
        """Whether anybody here has a diagram of a threat model open, and can be told."""
        if any(True for _ in self._informed(model)):
            return True
        self._diagrams.pop(model, None)
        self._shut_out = {pair for pair in self._shut_out if pair[1] != model}
        return False

    def users(self, model: ThreatModelId) -> Iterable[UserId]:
        """Who has one open."""
        return {member.user for member, _ in self._informed(model)}

    def looked(self, readable: Mapping[Pair, bool]) -> None:
        """Tell no more to whoever may not read; rooms send them away."""
        for pair, is_readable in readable.items():
            if is_readable:
                self._shut_out.discard(pair)
            elif pair[1] in self._diagrams:
                self._shut_out.add(pair)

    def offer(self, model: ThreatModelId, new: New, after: int) -> None:
        """Something has happened."""
        text = f'{{"id":"{new.number}","event":"change","data":{new.data.decode()}}}'
        self._tell(model, Notice(text, after))

    def lose(self, model: ThreatModelId, after: int) -> None:
        """Something has happened that cannot be read here."""
        self._tell(model, missed(after))

    def _tell(self, model: ThreatModelId, notice: Notice) -> None:
        for member, document in list(self._informed(model)):
            if (member.user, model) in self._shut_out:
                continue
            if document.inform(notice):
                self.told += 1
            else:
                self.missed += 1

    def _informed(self, model: ThreatModelId) -> Iterator[tuple[Member, Informed]]:
        for diagram in self._diagrams.get(model, ()):
            for member, peer in self._rooms.here(diagram):
                if isinstance(peer, Informed):
                    yield member, peer
