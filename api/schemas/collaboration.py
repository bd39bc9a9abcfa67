"""Collaboration sessions, tickets and collab tokens."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from api.schemas.base import Input, Output, Query, UuidText
from api.schemas.people import UserOutput


class CollabTokenInput(Input):
    """For which diagram a collab token is wanted; without one it is good for all."""

    diagram_id: UuidText | None = None


class CollabTokenOutput(Output):
    """A token for live sockets and where to connect with it."""

    token: str
    expires_in: int
    y_websocket_url: str
    hocuspocus_url: str


class Participant(Output):
    """Somebody who has the diagram open."""

    user: UserOutput
    last_activity: datetime
    permissions: Literal["reader", "writer"]


class CollaborationSession(Output):
    """A collaboration session of a diagram."""

    session_id: UUID
    host: UserOutput
    presenter: UserOutput | None = None
    threat_model_id: UUID
    threat_model_name: str
    diagram_id: UUID
    diagram_name: str
    participants: list[Participant]
    websocket_url: str


class CollaborationSessions(Output):
    """Collaboration sessions that somebody may join."""

    sessions: list[CollaborationSession]
    total: int


class TicketQuery(Query):
    """For which collaboration session a ticket is wanted."""

    session_id: UuidText


class TicketAnswer(Output):
    """A ticket for one live socket."""

    ticket: str
