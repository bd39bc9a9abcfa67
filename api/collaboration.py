"""Collaboration sessions of diagrams, and tickets for their sockets.

A session says that a diagram is being worked on together; it begins and ends by request. Who takes part is
read from the diagram's room, so it is the same from every node. The host is who began it; while that one is
away, who has been in the room longest acts as host.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.collab_tokens import socket_base
from api.context import caller, context, model_for, parse_diagram_id, parse_uuid, services
from api.documented import operation
from rooms.peer import Member
from tmi.domain.errors import Forbidden, NotFound, Unavailable
from tmi.domain.ids import CollaborationId, DiagramId, ThreatModelId, UserId
from tmi.domain.model import Collaboration, Ticket, User
from tmi.domain.roles import Action, Role, may

routes = Blueprint("collaboration", __name__)

TICKET_TTL = timedelta(seconds=30)
SESSIONS_MAX = 100
_ASKED_AT_ONCE = 10
PARTICIPANTS_MAX = 1000
"""The contract's bound; those who came first are shown."""

_PATH = "/threat_models/<threat_model_id>/diagrams/<diagram_id>/collaborate"


@routes.post(_PATH)
@tag(["Live collaboration"])
@operation_id("createDiagramCollaborationSession")
@operation(
    answers={200: schemas.CollaborationSession, 201: schemas.CollaborationSession},
    errors=(400, 401, 403, 404, 503),
)
async def begin(threat_model_id: str, diagram_id: str) -> Response:
    """Begin a collaboration session, or join the one that there is

    201 for a new one, 200 for an existing one.
    """
    model, diagram = await _place(threat_model_id, diagram_id)
    return await context().to_the_end(_begin(model, diagram))


async def _begin(model: ThreatModelId, diagram: DiagramId) -> Response:
    made = audit.entry("collaboration.begun", f"diagram {diagram}")
    session, is_new = await services().collaborations.begin(model, diagram, caller().user.id, made)
    if is_new:
        audit.logged(made)
    return await _answer(session, 201 if is_new else 200)


@routes.get(_PATH)
@tag(["Live collaboration"])
@operation_id("getDiagramCollaborationSession")
@operation(answers={200: schemas.CollaborationSession}, errors=(400, 401, 403, 404, 503))
async def get(threat_model_id: str, diagram_id: str) -> Response:
    """Get a diagram's collaboration session

    `participants` are those who have the diagram open now, on whatever node.
    """
    return await _answer(await _session(*await _place(threat_model_id, diagram_id)))


@routes.delete(_PATH)
@tag(["Live collaboration"])
@operation_id("endDiagramCollaborationSession")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def end(threat_model_id: str, diagram_id: str) -> Response:
    """End a diagram's collaboration session

    For its host and the owners of the threat model. Sockets that were opened by its tickets are closed.
    """
    model, diagram = await _place(threat_model_id, diagram_id)
    session = await _session(model, diagram)
    members = await services().rooms.members(diagram)
    if caller().user.id != _host(session, members):
        role = await services().access.to_threat_model(caller().user.id, model)
        if not may(role, Action.END_COLLABORATION):
            raise Forbidden("only the host or an owner ends a session")
    await context().to_the_end(_end(session))
    return bodies.no_content()


@routes.get("/me/sessions")
@tag(["Live collaboration"])
@operation_id("getCurrentUserSessions")
@operation(answers={200: schemas.CollaborationSessions}, errors=(401, 503))
async def mine() -> Response:
    """List the collaboration sessions that the caller may join, the newest first

    At most 100. Sign-ins are at `/me/sign_ins`.
    """
    found = await services().collaborations.visible_to(caller().user.id, SESSIONS_MAX)
    turn = asyncio.Semaphore(_ASKED_AT_ONCE)
    there = await asyncio.gather(*(_members(session, turn) for session in found))
    listed = list(zip(found, there, strict=True))
    # Who they are, of all at once: a query for each took a hundred.
    wanted = dict.fromkeys(key for one in listed for key in _wanted(*one))
    users = await services().users.get_all(list(wanted))
    sessions = [shown for one in listed if (shown := _shown(*one, users)) is not None]
    return bodies.answer(schemas.CollaborationSessions(sessions=sessions, total=len(sessions)))


@routes.get("/ws/ticket")
@tag(["Live collaboration"])
@operation_id("getWsTicket")
@operation(query=schemas.TicketQuery, answers={200: schemas.TicketAnswer}, errors=(400, 401, 404, 503))
async def ticket() -> Response:
    """Get a ticket for a live socket

    It opens one socket of the session at `websocket_url?session_id=...&ticket=...`, within 30 seconds.
    """
    key = CollaborationId(parse_uuid(bodies.read_query(schemas.TicketQuery).session_id))
    session = await services().collaborations.get(key)
    sign_in = caller()
    access = await services().access.to_diagram(sign_in.user.id, session.diagram_id)
    if not may(access.role, Action.WATCH):
        raise NotFound("There is no such collaboration session.")  # the contract has no 403 here
    secret = secrets.token_urlsafe(32)
    grant = Ticket(sign_in.user.id, sign_in.id, session.id, session.threat_model_id, session.diagram_id)
    await services().tickets.issue(secret, grant, TICKET_TTL)
    made = audit.entry("ticket.issued", f"diagram {session.diagram_id}", new=str(session.id))
    await audit.note(services().audit, made)
    return bodies.answer(schemas.TicketAnswer(ticket=secret))


async def _place(threat_model_id: str, diagram_id: str) -> tuple[ThreatModelId, DiagramId]:
    """Where the caller may watch. Raises BadInput, NotFound and Forbidden."""
    return await model_for(threat_model_id, Action.WATCH), parse_diagram_id(diagram_id)


async def _session(model: ThreatModelId, diagram: DiagramId) -> Collaboration:
    """Raises NotFound, also for one that nobody hosts and nobody is in."""
    session = await services().collaborations.of_diagram(model, diagram)
    if session is None:
        raise NotFound("This diagram has no collaboration session.")
    return session


async def _end(session: Collaboration) -> None:
    made = audit.entry("collaboration.ended", f"diagram {session.diagram_id}", old=str(session.id))
    if await services().collaborations.end(session.id, made):
        audit.logged(made)
        await services().rooms.rights.collaboration_ended(session.id)


async def _answer(session: Collaboration, status: int = 200) -> Response:
    members = await services().rooms.members(session.diagram_id)
    shown = _shown(session, members, await services().users.get_all(_wanted(session, members)))
    if shown is None:
        raise NotFound("This diagram has no collaboration session.")
    return bodies.answer(shown, status)


async def _members(session: Collaboration, turn: asyncio.Semaphore) -> Sequence[Member]:
    """Who is there, for a list: nobody where their node does not answer now."""
    async with turn:
        try:
            return await services().rooms.members(session.diagram_id)
        except (NotFound, Unavailable):
            return ()


def _wanted(session: Collaboration, members: Sequence[Member]) -> list[UserId]:
    """Whom a session shows."""
    host, roles = _host(session, members), _roles(members)
    return list(roles) if host is None or host in roles else [host, *roles]


def _shown(
    session: Collaboration, members: Sequence[Member], users: Mapping[UserId, User]
) -> schemas.CollaborationSession | None:
    """A session as JSON; None for one that nobody hosts and nobody is in."""
    host, roles = _host(session, members), _roles(members)
    if host is None or host not in users:
        return None
    path = f"{schemas.location_of(session.threat_model_id)}/diagrams/{session.diagram_id}/ws"
    return schemas.CollaborationSession(
        session_id=session.id,
        host=schemas.UserOutput.of(users[host]),
        threat_model_id=session.threat_model_id,
        threat_model_name=session.threat_model_name,
        diagram_id=session.diagram_id,
        diagram_name=session.diagram_name,
        participants=_participants(roles, users),
        websocket_url=f"{socket_base()}{path}",
    )


def _host(session: Collaboration, members: Sequence[Member]) -> UserId | None:
    """Who began the session; while that one is away and others are there, who came first of them."""
    present = [member.user for member in members]
    if session.host is not None and (session.host in present or not present):
        return session.host
    return next(iter(present), None)


def _roles(members: Sequence[Member]) -> Mapping[UserId, Role]:
    """Each participant once, in the order in which they came."""
    roles: dict[UserId, Role] = {}
    for member in members:
        if member.user in roles or len(roles) < PARTICIPANTS_MAX:
            roles[member.user] = max(member.role, roles.get(member.user, member.role))
    return roles


def _participants(roles: Mapping[UserId, Role], users: Mapping[UserId, User]) -> list[schemas.Participant]:
    """Who is listed is connected, so the last activity is now."""
    now = datetime.now(UTC)
    return [
        schemas.Participant(
            user=schemas.UserOutput.of(users[user]),
            last_activity=now,
            permissions="writer" if may(role, Action.EDIT) else "reader",
        )
        for user, role in roles.items()
        if user in users
    ]
