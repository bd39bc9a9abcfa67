"""Edits of a whole diagram by REST, as one change of the live document, wherever its room is.

What it holds true:

- **The owner decides.** What is asked for is applied to what the room shows at that very moment, as one
  transaction of the document, in the one order that all edits have. So JSON Patch tests and indices mean what
  editors see, and what others change meanwhile is merged, property by property.
- **Whole or not at all.** A diagram's edits take turns at the owner: its row is read, the caller's role is
  looked up, the version compared and the change worked out before anything changes.
- **Answered when saved.** The answer comes after the commits: first the journal's, then that of the row, with
  its next version. The cells of the answer are those of its `seq`.

What can go wrong: the owner dies, loses its fence or the database between the first change and the last
commit. Then nobody can tell what will become of the edit, since other nodes and editors have seen it and
offer it to the next owner: the caller is told so (OutcomeUnknown), and nothing is repeated, because a patch
by index that is applied twice is not the same patch. What was surely not begun is tried again, for a while,
with whoever owns the room then. Between the two commits lies a moment in which the cells are saved and the
row is not; that is an OutcomeUnknown, too.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import orjson

from crdt.cells import Cell
from crdt.diagram import Made, Plan, carry_out, plan_by_steps, planned, reconcile
from crdt.document import Document
from crdt.reading import AT_ONCE, Watch, read_meta
from rooms.growth import HELD_BACK
from rooms.journal import SHEDDING
from rooms.nodes.control import Json, Unanswered
from rooms.runner import RoomRunner
from rooms.slices import Slices
from tmi.domain.diagrams import DiagramFields, DiagramImage
from tmi.domain.errors import (
    BadInput,
    Conflict,
    DatabaseUnavailable,
    Draining,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    OwnedElsewhere,
    TmiError,
    TooLarge,
    TooManyRequests,
    Unavailable,
    VersionMismatch,
)
from tmi.domain.events import Actor, ChangeType, Deed
from tmi.domain.ids import DiagramId, Seq, ThreatModelId, UserId
from tmi.domain.model import Diagram, Node
from tmi.domain.ports import AccessControl, DiagramWrites, Origin
from tmi.domain.roles import Action, may
from tmi.domain.versions import check_version

log = logging.getLogger(__name__)

_PAUSE_S = 0.03, 0.1

_ERRORS: dict[str, type[TmiError]] = {
    kind.__name__: kind
    for kind in (
        BadInput,
        Conflict,
        DatabaseUnavailable,
        Draining,
        Forbidden,
        NotFound,
        OutcomeUnknown,
        TooLarge,
        TooManyRequests,
        Unavailable,
        VersionMismatch,
    )
}


@dataclass(frozen=True, slots=True)
class Edit:
    """What a user wants made of a diagram."""

    model: ThreatModelId
    diagram: DiagramId
    deed: Deed
    """Whose edit it is, and how the trail calls it."""
    change: Json
    """In the words of whoever interprets it (`Interpret`); JSON, since it may travel."""
    expected: int | None = None
    """The version that the diagram has to have."""

    @property
    def user(self) -> UserId:
        """Its author. Raises BadInput: it has to be somebody."""
        if self.deed.actor.user is None:
            raise BadInput("an edit has an author")
        return self.deed.actor.user


@dataclass(frozen=True, slots=True)
class Shown:
    """What a room shows; the interpreter may change it in place."""

    cells: list[Cell]
    meta: dict[str, Json]
    seq: Seq
    wires: Mapping[str, bytes] | None = None
    """Each cell's JSON by id, if it is known already."""
    vetted: Container[bytes] = frozenset()
    """The JSON of cells that were found right before."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a diagram is to look like."""

    fields: DiagramFields
    cells: Sequence[Json]
    meta: Mapping[str, Json] = field(default_factory=dict)
    """Entries to set; others stay."""


@dataclass(frozen=True, slots=True)
class Edited:
    """A diagram after an edit. All of it belongs together."""

    diagram: Diagram
    seq: Seq
    cells: list[Cell]
    meta: dict[str, Json]


Interpret = Callable[[Diagram, Shown, Json], Wanted]
"""Works out what a change makes of a diagram, without waiting for anything. Raises TmiError."""

Vet = Callable[[Json, Mapping[str, bytes]], Generator[None, None, Container[bytes]]]
"""Looks by steps at the cells that a change brings, given those that are there: which are right (`Shown`)."""

Ask = Callable[[Node, Json, float], Awaitable[Json]]


class Owners(Protocol):
    """The rooms of this node."""

    refusals: Counter[str]
    """What was refused, by limit."""

    async def owner_here(self, diagram: DiagramId) -> RoomRunner:
        """The room, opened here if nobody owns it. Raises OwnedElsewhere, NotFound, Unavailable."""

    def seek_owner(self, diagram: DiagramId, owner: Node) -> None:
        """This one cannot be reached: follow the room, as if a client were in it, until somebody can."""

    def owned(self, diagram: DiagramId) -> RoomRunner | None:
        """The room if it is open here."""

    @property
    def slices(self) -> Slices:
        """Who does long work in short steps."""

    @property
    def is_shedding(self) -> bool:
        """No more edits are taken: too much waits for the database."""


@dataclass(frozen=True, slots=True)
class EditingLimits:
    """Bounds; times in seconds."""

    find_s: float = 8.0
    """For finding somebody who owns the room."""
    turn_s: float = 10.0
    """For the edits of the same diagram that came first."""
    save_s: float = 10.0
    """For the commit."""
    answer_s: float = 30.0
    """For the owner's answer: all of these together."""
    waiting_max: int = 64
    """Edits of one diagram that wait for their turn."""


class _NotOwner(Exception):
    """The room is not open here any more, and nothing was done."""


@dataclass(slots=True)
class _Turns:
    lock: asyncio.Lock
    waiting: int = 0


class Editing:
    """Edits diagrams whose rooms are here, and asks other nodes for the rest."""

    def __init__(
        self,
        rooms: Owners,
        diagrams: DiagramWrites,
        access: AccessControl,
        interpret: Interpret,
        ask: Ask,
        vet: Vet,
        limits: EditingLimits | None = None,
    ) -> None:
        self._rooms = rooms
        self._diagrams = diagrams
        self._access = access
        self._interpret = interpret
        self._ask = ask
        self._vet = vet
        self._limits = limits or EditingLimits()
        self._turns: dict[DiagramId, _Turns] = {}

    async def edit(self, edit: Edit) -> Edited:
        """Make an edit, on whatever node. Once begun it should be awaited to its end.

        Raises BadInput, Conflict, VersionMismatch, Forbidden, NotFound, TooLarge, TooManyRequests and
        Unavailable, after which nothing has changed, and OutcomeUnknown.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._limits.find_s
        while True:
            with contextlib.suppress(_NotOwner):
                try:
                    await self._rooms.owner_here(edit.diagram)
                except OwnedElsewhere as elsewhere:
                    try:
                        return await self._ask_owner(elsewhere.owner, edit)
                    except _NotOwner:
                        self._rooms.seek_owner(edit.diagram, elsewhere.owner)
                        raise
                return await self._edit_here(edit)
            if loop.time() > give_up_at:
                raise Unavailable("the node that owns this diagram cannot be reached; try again shortly")
            await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - not a secret

    # --- on the owner ---------------------------------------------------------------------------

    async def _edit_here(self, edit: Edit) -> Edited:
        async with self._turn(edit.diagram):
            runner = self._rooms.owned(edit.diagram)
            if runner is None:
                raise _NotOwner
            with contextlib.closing(Watch(runner.room.document)) as watch:
                await self._rooms.slices.run(watch.steps())
                vetted = await self._rooms.slices.run(self._vet(edit.change, watch.wires))
                before, fields, made = await self._made(edit, runner, watch, vetted)
                edited = await self._read(runner, before, watch)
            if made is not None:
                await self._saved(runner, made)
            return replace(edited, diagram=await self._written(edit, before, fields, made))

    async def _made(
        self, edit: Edit, runner: RoomRunner, watch: Watch, vetted: Container[bytes]
    ) -> tuple[Diagram, DiagramFields, Seq | None]:
        """The cells are changed, and the row, which is returned, not yet; the number of the change, if any.

        A large one is worked out by steps. Where nothing has happened meanwhile it is made as it is, else
        worked out once more, in one go, from what is still right of it.
        """
        change = _kept(edit.change)
        before = await self._allowed(edit, runner)
        wanted = self._wanted(runner, before, edit.change, watch, vetted)
        made: Made = {}
        if change is None or max(len(wanted.cells), len(watch.wires)) <= AT_ONCE:
            plan = planned(watch, wanted.cells, wanted.meta, made)
        else:
            document = runner.room.document
            version, doc = document.version, document.doc
            plan = await self._rooms.slices.run(plan_by_steps(watch, wanted.cells, wanted.meta, made))
            row, before = before, await self._allowed(edit, runner)
            runner.settle()
            if (row, version, doc) != (before, document.version, document.doc):
                wanted = self._wanted(runner, before, orjson.loads(change), watch, vetted)
                plan = planned(watch, wanted.cells, wanted.meta, made)
        # Nothing may be awaited between the plan, or the proof that it still holds, and this.
        return before, wanted.fields, self._carry_out(runner, edit.user, wanted, plan, watch)

    async def _allowed(self, edit: Edit, runner: RoomRunner) -> Diagram:
        """The row of a diagram that may be changed now."""
        row = await self._diagrams.get(edit.model, edit.diagram)
        role = await self._access.to_threat_model(edit.user, edit.model)
        if not may(role, Action.EDIT):
            raise Forbidden
        check_version(edit.expected, row.version, "diagram")
        if self._rooms.is_shedding:
            self._rooms.refusals["journal"] += 1
            raise Unavailable(SHEDDING)
        if self._rooms.owned(edit.diagram) is not runner:
            raise _NotOwner
        if runner.is_held_back:
            self._rooms.refusals["rooms_growth"] += 1
            raise Unavailable(HELD_BACK)
        return row

    def _wanted(
        self, runner: RoomRunner, before: Diagram, change: Json, watch: Watch, vetted: Container[bytes]
    ) -> Wanted:
        """What a change makes of what the room shows at this moment."""
        runner.settle()
        watch.catch_up()
        shown = Shown(watch.cells(), read_meta(watch.document), runner.room.seq, watch.wires, vetted)
        return self._interpret(before, shown, change)

    def _carry_out(
        self, runner: RoomRunner, user: UserId, wanted: Wanted, plan: Plan, watch: Watch
    ) -> Seq | None:
        """The number of the change, if there is any."""
        document, seq = runner.room.document, runner.room.seq

        def change(target: Document) -> bytes | None:
            if target is document:
                return carry_out(document, plan)
            return reconcile(target, wanted.cells, wanted.meta)

        with watch.told(plan.changed):
            runner.edit(change, user, Origin.REST, plan.at_most_bytes)
        return runner.room.seq if runner.room.seq != seq else None

    async def _read(self, runner: RoomRunner, before: Diagram, watch: Watch) -> Edited:
        """What the room shows after an edit: at once, or by steps where much has changed, and then with what
        others have changed by the end of that. Raises OutcomeUnknown.
        """
        room = runner.room
        version = room.document.version
        if watch.is_far_behind:
            await self._rooms.slices.run(watch.steps())
            if self._rooms.owned(room.diagram) is runner:
                runner.settle()
            elif room.document.version != version:
                # It goes on under another owner's numbers.
                raise OutcomeUnknown("the diagram's room has moved while the edit was being made")
        watch.catch_up()
        return Edited(before, room.seq, watch.cells(), read_meta(room.document))

    async def _saved(self, runner: RoomRunner, seq: Seq) -> None:
        """Raises OutcomeUnknown."""
        try:
            async with asyncio.timeout(self._limits.save_s):
                is_saved = await runner.saved(seq)
        except TimeoutError:
            raise OutcomeUnknown("the edit is made, and waits for the database") from None
        if not is_saved:
            raise OutcomeUnknown("the diagram's room ended before the edit was saved: it may yet be")

    async def _written(
        self, edit: Edit, before: Diagram, fields: DiagramFields, made: Seq | None
    ) -> Diagram:
        try:
            return await self._diagrams.write(
                edit.model,
                edit.diagram,
                fields,
                edit.deed,
                # Others may write the row while the edit of cells is committed, which is not to be undone.
                expected=before.version if made is None and edit.expected is not None else None,
                read=before.fields,
                seq=made,
            )
        except DatabaseUnavailable:
            raise OutcomeUnknown("the database went away while the edit was being saved") from None

    @contextlib.asynccontextmanager
    async def _turn(self, diagram: DiagramId) -> AsyncIterator[None]:
        """One edit of a diagram at a time. Raises TooManyRequests and Unavailable."""
        turns = self._turns.setdefault(diagram, _Turns(asyncio.Lock()))
        if turns.waiting >= self._limits.waiting_max:
            self._rooms.refusals["edits_waiting"] += 1
            raise TooManyRequests("too many edits of this diagram wait already")
        turns.waiting += 1
        try:
            try:
                async with asyncio.timeout(self._limits.turn_s):
                    await turns.lock.acquire()
            except TimeoutError:
                raise Unavailable("the edits of this diagram that came first take too long") from None
            try:
                yield
            finally:
                turns.lock.release()
        finally:
            turns.waiting -= 1
            if not turns.waiting:
                del self._turns[diagram]

    async def answer(self, asked: Json) -> Json:
        """What another node asks of this one, as the owner. Raises nothing."""
        try:
            edit = _edit_from_json(asked)
            if self._rooms.owned(edit.diagram) is None:
                return {"owner": False}
            return _edited_to_json(await self._edit_here(edit))
        except _NotOwner:
            return {"owner": False}
        except TmiError as error:
            return {"refused": _name_of(error), "detail": error.detail[:1000]}
        except Exception:
            log.exception("an edit that another node asked for failed")
            return {"refused": OutcomeUnknown.__name__, "detail": "the edit failed: the node's log says why"}

    # --- elsewhere ------------------------------------------------------------------------------

    async def _ask_owner(self, owner: Node, edit: Edit) -> Edited:
        """Raises _NotOwner where nothing was begun."""
        try:
            told = await self._ask(owner, _edit_to_json(edit), self._limits.answer_s)
        except Unanswered:
            raise OutcomeUnknown("the node that owns this diagram went away with the edit") from None
        except Unavailable:
            raise _NotOwner from None
        except BadInput:
            raise Unavailable("the node that owns this diagram is of a version that takes no edits") from None
        if told.get("owner") is False:
            raise _NotOwner
        if "refused" in told:
            raise _ERRORS.get(told["refused"], OutcomeUnknown)(told["detail"])
        return _edited_from_json(told, edit)


def _kept(change: Json) -> bytes | None:
    """A change to be read once more, since an interpreter may use up what it is given; None if that is
    nested too deeply.
    """
    try:
        return orjson.dumps(change)
    except orjson.JSONEncodeError:
        return None


def _name_of(error: TmiError) -> str:
    """Of the nearest kind that is known everywhere."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), "OutcomeUnknown")


# --- on the link ----------------------------------------------------------------------------------


def _edit_to_json(edit: Edit) -> Json:
    actor = edit.deed.actor
    return {
        "do": "edit",
        "model": str(edit.model),
        "diagram": str(edit.diagram),
        "actor": [str(edit.user), actor.provider, actor.provider_id, actor.email, actor.name],
        "as": [edit.deed.change.value, edit.deed.summary],
        "change": edit.change,
        "expected": edit.expected,
    }


def _edit_from_json(asked: Json) -> Edit:
    """Raises BadInput."""
    try:
        user, *actor = asked["actor"]
        called, summary = asked["as"]
        return Edit(
            ThreatModelId(UUID(asked["model"])),
            DiagramId(UUID(asked["diagram"])),
            Deed(Actor(UserId(UUID(user)), *actor), ChangeType(called), summary),
            asked["change"],
            asked["expected"],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput("an edit of another node is not understood") from None


_AS_THEY_ARE = (
    "alias",
    "name",
    "type",
    "description",
    "version",
    "include_in_report",
    "timmy_enabled",
    "metadata",
)


def _edited_to_json(edited: Edited) -> Json:
    diagram = edited.diagram
    row: dict[str, Any] = {
        name: getattr(diagram, name)
        for name in _AS_THEY_ARE
    }
    row["created_at"], row["modified_at"] = diagram.created_at.isoformat(), diagram.modified_at.isoformat()
    image = diagram.image
    row["image"] = None if image is None else [image.svg, image.update_vector]
    return {"row": row, "seq": edited.seq, "cells": edited.cells, "meta": edited.meta}


def _edited_from_json(told: Json, edit: Edit) -> Edited:
    row = dict(told["row"])
    row["created_at"] = datetime.fromisoformat(row["created_at"])
    row["modified_at"] = datetime.fromisoformat(row["modified_at"])
    row["image"] = None if row["image"] is None else DiagramImage(*row["image"])
    diagram = Diagram(id=edit.diagram, threat_model_id=edit.model, **row)
    return Edited(diagram, Seq(told["seq"]), told["cells"], told["meta"])
