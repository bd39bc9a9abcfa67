"""Identifiers and counters, each a type of its own so that they cannot be mixed up."""

from typing import NewType
from uuid import UUID

DiagramId = NewType("DiagramId", UUID)
"""A diagram; in lower case it is also the room's name and the document's name in every protocol."""

ThreatModelId = NewType("ThreatModelId", UUID)
UserId = NewType("UserId", UUID)

ChildId = NewType("ChildId", UUID)
"""A threat, asset, document, note or repository; where all kinds are meant, a diagram, too."""

SignInId = NewType("SignInId", UUID)
"""One sign-in of one user (`sid` in tokens); ends by logout, revocation or expiry."""

CredentialId = NewType("CredentialId", UUID)
"""A client credential, with which a program gets tokens of its user."""

CollaborationId = NewType("CollaborationId", UUID)
"""One collaboration session of a diagram (`session_id` of the contract)."""

GroupId = NewType("GroupId", UUID)
AuditId = NewType("AuditId", UUID)
EventId = NewType("EventId", UUID)
WebhookId = NewType("WebhookId", UUID)
"""A subscription to events."""
DeliveryId = NewType("DeliveryId", UUID)
"""One event for one subscription; receivers may know by it what they had already."""

Seq = NewType("Seq", int)
"""Counts, per diagram and without gaps from 1, the accepted updates that changed the document."""

Fence = NewType("Fence", int)
"""A term of ownership of a room; rises with each claim. 0 means never claimed."""

NodeId = NewType("NodeId", UUID)
"""One run of one serving process: started again it is another node."""
