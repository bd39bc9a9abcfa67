"""What becomes of open sessions when roles, diagrams or sign-ins change, on this node and on all others."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from rooms import closing
from rooms.background import Background
from rooms.hosted import Hosted
from rooms.hosting import Runner
from rooms.peer import Member
from rooms.runner import RoomRunner
from rooms.ticker import Ticker
from tmi.domain.errors import DatabaseUnavailable, NotFound
from tmi.domain.ids import CollaborationId, DiagramId, SignInId, UserId
from tmi.domain.ports import AccessControl, Entrant, Happened, Signal, Signals, Standing

_RETRY_S = 0.5
_RECENT_S = 60.0


class Rights:
    """Keeps the sessions of this node as their members' rights are, and tells the other nodes."""

    def __init__(
        self,
        hosted: Hosted,
        access: AccessControl,
        ticker: Ticker,
        background: Background,
        release: Callable[[RoomRunner], None],
        *,
        retry_s: float = _RETRY_S,
        recent_s: float = _RECENT_S,
    ) -> None:
        """`release` gives up a room that is gone. Times in seconds: `retry_s` between two tries while the
        database is away; for `recent_s` after a change a newcomer's role is read once more.
        """
        self._hosted = hosted
        self._access = access
        self._ticker = ticker
        self._background = background
        self._release = release
        self._retry_s = retry_s
        self._recent_s = recent_s
        self._changed_at: dict[DiagramId, float] = {}
        self._people_changed_at: dict[UserId, float] = {}
        self._ended_at: dict[SignInId, float] = {}
        self.on_collaboration_ended: Callable[[CollaborationId], None] = lambda _: None
        """Called on each node when a collaboration session has ended."""
        self.on_newcomer: Callable[[SignInId], None] = lambda _: None
        """Called with the sign-in of whoever has come."""
        self.on_people: Callable[[Signal | None], None] = lambda _: None
        """Called on each node when people's roles may have changed anywhere, when sign-ins have ended, and
        with None when some of it may have been missed.
        """
        self.on_settings_changed: Callable[[Sequence[UUID]], None] = lambda _: None
        """Called on each node with what a signal of changed settings names; without anything: some may have
        been missed.
        """
        self.signals: Signals | None = None
        """The way to the other nodes."""

    def look_again(self, diagram: DiagramId, member: Member) -> None:
        """A newcomer's role was looked up before it was let in, perhaps before a change."""
        if self._may_have_changed(diagram, member):
            self._background.spawn(self._reread(diagram))
        self.on_newcomer(member.sign_in)
        if member.sign_in in self._ended_at:
            self._background.spawn(self._end_again(member.sign_in))

    def is_outdated(self, diagram: DiagramId, member: Member) -> bool:
        """Whether something of late may have changed what somebody may do, or has ended the sign-in."""
        return self._may_have_changed(diagram, member) or member.sign_in in self._ended_at

    def _may_have_changed(self, diagram: DiagramId, member: Member) -> bool:
        if not self._changed_at and not self._people_changed_at:
            return False
        changes = self._changed_at.get(diagram), self._people_changed_at.get(member.user)
        return any(at is not None and _may_not_know(member, at) for at in changes)

    async def _end_again(self, sign_in: SignInId) -> None:
        """It ended between the newcomer's check and the newcomer's arrival."""
        self._end_sessions(sign_in)

    def forget_old_changes(self) -> None:
        """Called now and then."""
        now = self._ticker.now()
        for diagram, changed_at in list(self._changed_at.items()):
            if now - changed_at > self._recent_s:
                del self._changed_at[diagram]
        for user, changed_at in list(self._people_changed_at.items()):
            if now - changed_at > self._recent_s:
                del self._people_changed_at[user]
        for sign_in, ended_at in list(self._ended_at.items()):
            if now - ended_at > self._recent_s:
                del self._ended_at[sign_in]

    async def access_changed(self, diagrams: Sequence[DiagramId]) -> None:
        """Roles on these diagrams may have changed: see to it on every node."""
        if not await self._announced(Happened.ACCESS_CHANGED, diagrams):
            await self._access_changed(diagrams)

    def deleted(self, diagrams: Sequence[DiagramId]) -> None:
        """These diagrams are gone: close their sessions with 4404, on every node."""
        self._deleted(diagrams)
        self._background.spawn(self._announce(Happened.DELETED, diagrams))

    async def sign_ins_ended(self, sign_ins: Sequence[SignInId]) -> None:
        """Close every session behind these sign-ins with 4401, on every node."""
        for sign_in in sign_ins:
            self._sign_in_ended(sign_in)
        await self._announced(Happened.SIGN_IN_ENDED, sign_ins)

    async def people_changed(self, users: Sequence[UserId]) -> None:
        """These users' roles may have changed anywhere: see to it on every node."""
        if not await self._announced(Happened.PEOPLE_CHANGED, users):
            await self._people_changed(users)

    async def collaboration_ended(self, collaboration: CollaborationId) -> None:
        """A collaboration session is over: close the sockets that came by its tickets, on every node."""
        if not await self._announced(Happened.COLLABORATION_ENDED, [collaboration]):
            self.on_collaboration_ended(collaboration)

    async def settings_changed(self, ids: Sequence[UUID]) -> None:
        """Limits or settings have changed: tell every node."""
        if not await self._announced(Happened.SETTINGS_CHANGED, ids):
            self.on_settings_changed(ids)

    async def _announce(self, happened: Happened, ids: Sequence[UUID]) -> None:
        await self._announced(happened, ids)

    async def _announced(self, happened: Happened, ids: Sequence[UUID]) -> bool:
        """All nodes are told, this one included; False if only this one can be told now."""
        if self.signals is None or not ids:
            return False
        if happened in self.signals.told_at_commit:
            return True
        try:
            await self.signals.publish(Signal(happened, tuple(ids)))
        except DatabaseUnavailable:
            # The others' connections are gone as well: they look at everything again when it is back.
            return False
        return True

    def hear(self, signal: Signal | None) -> None:
        """A node has told all what happened; None: some of it may have been missed."""
        if signal is None:
            self.on_people(None)
            self.look_at_all()
            self._background.spawn(self._check_sign_ins())
            self.on_settings_changed(())
        elif signal.happened is Happened.ACCESS_CHANGED:
            self._background.spawn(self._access_changed([DiagramId(key) for key in signal.ids]))
        elif signal.happened is Happened.DELETED:
            self._deleted([DiagramId(key) for key in signal.ids])
        elif signal.happened is Happened.PEOPLE_CHANGED:
            self._background.spawn(self._people_changed([UserId(key) for key in signal.ids]))
        elif signal.happened is Happened.SETTINGS_CHANGED:
            self.on_settings_changed(signal.ids)
        elif signal.happened is Happened.COLLABORATION_ENDED:
            for key in signal.ids:
                self.on_collaboration_ended(CollaborationId(key))
        elif signal.happened is Happened.SIGN_IN_ENDED:
            for key in signal.ids:
                self._sign_in_ended(SignInId(key))

    def look_at_all(self) -> None:
        """Read the roles again of everybody who is connected here."""
        self._background.spawn(self._access_changed([*self._hosted.open]))

    async def _access_changed(self, diagrams: Sequence[DiagramId]) -> None:
        """Read the roles again of everybody who is connected here.

        Demotes and promotes open sessions, and closes with 4403 those who may no longer read. While the
        database is away the rights last known hold, and this is tried again until it answers.
        """
        now = self._ticker.now()
        for diagram in diagrams:
            self._changed_at[diagram] = now
        for diagram in diagrams:
            await self._reread(diagram)

    async def _people_changed(self, users: Iterable[UserId]) -> None:
        """Read the roles again wherever these users are."""
        now, people = self._ticker.now(), set(users)
        self.on_people(Signal(Happened.PEOPLE_CHANGED, tuple(people)))
        self._people_changed_at.update(dict.fromkeys(people, now))
        for diagram, runner in list(self._hosted.open.items()):
            if any(member.user in people for member in runner.room.members.values()):
                await self._reread(diagram)

    async def _reread(self, diagram: DiagramId) -> None:
        while (runner := self._hosted.open.get(diagram)) is not None and not runner.room.is_empty:
            users = list({member.user for member in runner.room.members.values()})
            try:
                roles = await self._access.to_diagram_of_all(users, diagram)
            except NotFound:
                self._deleted([diagram])
                return
            except DatabaseUnavailable:
                await asyncio.sleep(self._retry_s)
                continue
            runner.change_roles(roles)
            if all(member.user in roles for member in runner.room.members.values()):
                return

    async def _check_sign_ins(self) -> None:
        """Close the sessions whose sign-in ended without a word."""
        for diagram, runner in list(self._hosted.open.items()):
            entrants = [
                Entrant(user, sign_in, diagram)
                for user, sign_in in {(m.user, m.sign_in) for m in runner.room.members.values()}
            ]
            for standing, entrant in zip(await self._standings(entrants), entrants, strict=True):
                if not standing.signed_in:
                    self._sign_in_ended(entrant.sign_in)

    async def _standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """As soon as the database answers."""
        while entrants:
            try:
                return await self._access.standings(entrants)
            except DatabaseUnavailable:
                await asyncio.sleep(self._retry_s)
        return ()

    def is_over(self, sign_in: SignInId) -> None:
        """Close every session of this node behind a sign-in with 4401."""
        self._sign_in_ended(sign_in)

    def sign_ins_here(self) -> frozenset[SignInId]:
        """Of everybody who is in a room or a replica of this node."""
        return frozenset(
            member.sign_in
            for runner in self._hosted.with_clients
            for member in runner.room.members.values()
        )

    def _sign_in_ended(self, sign_in: SignInId) -> None:
        self._ended_at[sign_in] = self._ticker.now()
        self.on_people(Signal(Happened.SIGN_IN_ENDED, (sign_in,)))
        self._end_sessions(sign_in)

    def _end_sessions(self, sign_in: SignInId) -> None:
        for runner in list(self._hosted.with_clients):
            _end_sign_in(runner, sign_in)

    def _deleted(self, diagrams: Sequence[DiagramId]) -> None:
        hosted = self._hosted
        for diagram in diagrams:
            runner = hosted.open.pop(diagram, None) or hosted.ending.pop(diagram, None)
            if runner is not None:
                runner.end(runner.room.deleted)
                self._release(runner)
            replica = hosted.following.get(diagram)
            if replica is not None:
                replica.end(replica.room.deleted)


def _may_not_know(member: Member, changed_at: float) -> bool:
    """Whether a member's role may be older than a change that this node heard of at that time.

    Who was looked up in the same moment may be: the clock stands still for a turn of the loop.
    """
    return member.as_of is None or member.as_of <= changed_at


def _end_sign_in(runner: Runner[Any], sign_in: SignInId) -> None:
    for number, member in runner.room.members.items():
        if member.sign_in == sign_in:
            runner.end_session(number, closing.SIGN_IN_ENDED, "your sign-in session has ended")
