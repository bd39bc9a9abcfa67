"""What two nodes say to each other about the rooms that one of them owns and the other follows.

A room that is followed has a channel of its own, whose number the follower chose. Bodies are y-protocols
messages, as on clients' sockets; sessions are the follower's, by the number its replica gave them, and
0 is the replica itself.

The encoding is lib0's: `varUint channel, varUint kind`, then the fields. Several messages share a frame.
Peers are authenticated, and yet nothing they claim is believed before it is compared with the bytes there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from crdt.lib0 import Decoder, var_bytes, var_string, write_var_uint
from rooms.effects import SessionNumber
from rooms.peer import Member
from tmi.domain.errors import BadFrame
from tmi.domain.ids import DiagramId, NodeId, Seq, SignInId, UserId
from tmi.domain.model import Node
from tmi.domain.ports import Origin
from tmi.domain.roles import Role

Channel = int
CONTROL: Channel = 0
"""Belongs to no room: questions to the node itself, and their answers (`rooms/nodes/control.py`)."""
_MEMBER_BYTES = 35
REPLICA: SessionNumber = 0
"""The session that stands for the replica as such."""


# --- from the follower --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Follow:
    """Open the channel: 'I have so much of this diagram, and want the rest and all that comes'."""

    diagram: DiagramId
    state_vector: bytes


@dataclass(frozen=True, slots=True)
class Unfollow:
    """Close the channel, with all its sessions."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Somebody has joined at the follower."""

    session: SessionNumber
    member: Member


@dataclass(frozen=True, slots=True)
class Leave:
    """A session at the follower is over."""

    session: SessionNumber


@dataclass(frozen=True, slots=True)
class Say:
    """A session sends a y-protocols message."""

    session: SessionNumber
    body: bytes


@dataclass(frozen=True, slots=True)
class Bring:
    """An update that a former owner accepted and perhaps never committed, with whose it is."""

    author: UserId | None
    origin: Origin
    body: bytes
    """The update itself."""


@dataclass(frozen=True, slots=True)
class Census:
    """Asks who is in the room, on whatever node. Each is answered, in order."""


# --- from the owner -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hear:
    """For every session but one, which has it already (0: none has). `seq` numbers the last update before."""

    body: bytes
    but: SessionNumber
    seq: Seq


@dataclass(frozen=True, slots=True)
class Tell:
    """For one session; for the replica itself `seq` numbers the last update before."""

    session: SessionNumber
    body: bytes
    seq: Seq


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """So many of the session's messages that carry edits, the oldest ones, are committed."""

    session: SessionNumber
    count: int


@dataclass(frozen=True, slots=True)
class Refused:
    """One edit of the session was not accepted."""

    session: SessionNumber
    reason: str


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The session's role is another one now."""

    session: SessionNumber
    role: Role


@dataclass(frozen=True, slots=True)
class Ended:
    """The session has to be closed."""

    session: SessionNumber
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The channel is over: look for the owner again.

    `is_disowned`: this node does not own the room, and never mind what is recorded. Otherwise it is about
    to open it, or to let it go. `successor`: where to look first.
    """

    is_disowned: bool
    successor: Node | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """Who is in the room, in the order in which they came."""

    members: tuple[Member, ...]


# --- both ways ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """To the node itself; nobody waits for the answer after `patience_ms`."""

    number: int
    patience_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the question of this number, or, if not `is_ok`, why there is none."""

    number: int
    is_ok: bool
    body: bytes


Asked = Follow | Unfollow | Enter | Leave | Say | Bring | Census
Answered = Hear | Tell | Acknowledged | Refused | RoleChanged | Ended | Lost | Counted
Message = Asked | Answered | Question | Reply


# --- the encoding -------------------------------------------------------------------------------


def encode(channel: Channel, message: Message) -> bytes:
    """One message. Several may be joined into a frame."""
    kind, write = _WRITERS[type(message)]
    return write_var_uint(channel) + kind + write(message)


def decode(frame: bytes) -> Iterator[tuple[Channel, Message]]:
    """The messages of a frame, each with its channel. Raises BadFrame."""
    decoder = Decoder(frame)
    while decoder.remaining():
        channel = decoder.read_var_uint()
        read = _READERS.get(decoder.read_byte())
        if read is None:
            raise BadFrame("another node sent a message of an unknown kind")
        yield channel, read(decoder)


def _read_uuid(decoder: Decoder) -> UUID:
    return _as_uuid(decoder.read_var_bytes())


def _as_uuid(data: bytes) -> UUID:
    try:
        return UUID(bytes=data)
    except ValueError:
        raise BadFrame("an id is not a UUID") from None


def _read_role(decoder: Decoder) -> Role:
    number = decoder.read_byte()
    try:
        return Role(number)
    except ValueError:
        raise BadFrame(f"there is no role {number}") from None


def _write_member(member: Member) -> bytes:
    return var_bytes(member.user.bytes) + var_bytes(member.sign_in.bytes) + bytes((member.role,))


def _read_member(decoder: Decoder) -> Member:
    user, sign_in = UserId(_read_uuid(decoder)), SignInId(_read_uuid(decoder))
    return Member(user, sign_in, _read_role(decoder))


def _read_enter(decoder: Decoder) -> Enter:
    session = decoder.read_var_uint()
    return Enter(session, _read_member(decoder))


def _read_counted(decoder: Decoder) -> Counted:
    count = decoder.read_var_uint()
    if count * _MEMBER_BYTES > decoder.remaining():
        raise BadFrame("a census is shorter than it claims")
    return Counted(tuple(_read_member(decoder) for _ in range(count)))


def _read_hear(decoder: Decoder) -> Hear:
    but, seq = decoder.read_var_uint(), Seq(decoder.read_var_uint())
    return Hear(decoder.read_var_bytes(), but, seq)


def _read_tell(decoder: Decoder) -> Tell:
    session, seq = decoder.read_var_uint(), Seq(decoder.read_var_uint())
    return Tell(session, decoder.read_var_bytes(), seq)


def _write_lost(message: Lost) -> bytes:
    node = message.successor
    if node is None:
        return bytes((message.is_disowned, 0))
    where = var_bytes(node.id.bytes) + var_string(node.name) + var_string(node.url)
    return bytes((message.is_disowned, 1)) + where


def _read_lost(decoder: Decoder) -> Lost:
    is_disowned = decoder.read_byte() != 0
    if decoder.read_byte() == 0:
        return Lost(is_disowned)
    node = NodeId(_read_uuid(decoder))
    return Lost(is_disowned, Node(node, decoder.read_var_string(), decoder.read_var_string()))


_ORIGINS = (Origin.UPDATE, Origin.SYNC, Origin.REST, Origin.SERVER)


def _write_bring(message: Bring) -> bytes:
    author = b"" if message.author is None else message.author.bytes
    return bytes((_ORIGINS.index(message.origin),)) + var_bytes(author) + var_bytes(message.body)


def _read_bring(decoder: Decoder) -> Bring:
    origin = decoder.read_byte()
    if origin >= len(_ORIGINS):
        raise BadFrame(f"there is no origin {origin}")
    author = decoder.read_var_bytes()
    user = UserId(_as_uuid(author)) if author else None
    return Bring(user, _ORIGINS[origin], decoder.read_var_bytes())


def _write_question(message: Question) -> bytes:
    return write_var_uint(message.number) + write_var_uint(message.patience_ms) + var_bytes(message.body)


_WRITERS: dict[type[Message], tuple[bytes, Callable[..., bytes]]] = {
    Follow: (b"\x00", lambda m: var_bytes(m.diagram.bytes) + var_bytes(m.state_vector)),
    Unfollow: (b"\x01", lambda _: b""),
    Enter: (b"\x02", lambda m: write_var_uint(m.session) + _write_member(m.member)),
    Leave: (b"\x03", lambda m: write_var_uint(m.session)),
    Say: (b"\x04", lambda m: write_var_uint(m.session) + var_bytes(m.body)),
    Hear: (b"\x05", lambda m: write_var_uint(m.but) + write_var_uint(m.seq) + var_bytes(m.body)),
    Tell: (b"\x06", lambda m: write_var_uint(m.session) + write_var_uint(m.seq) + var_bytes(m.body)),
    Acknowledged: (b"\x07", lambda m: write_var_uint(m.session) + write_var_uint(m.count)),
    Refused: (b"\x08", lambda m: write_var_uint(m.session) + var_string(m.reason)),
    RoleChanged: (b"\x09", lambda m: write_var_uint(m.session) + bytes((m.role,))),
    Ended: (b"\x0a", lambda m: write_var_uint(m.session) + write_var_uint(m.code) + var_string(m.reason)),
    Lost: (b"\x0b", _write_lost),
    Bring: (b"\x0c", _write_bring),
    Question: (b"\x0d", _write_question),
    Reply: (b"\x0e", lambda m: write_var_uint(m.number) + bytes((m.is_ok,)) + var_bytes(m.body)),
    Census: (b"\x0f", lambda _: b""),
    Counted: (b"\x10", lambda m: write_var_uint(len(m.members)) + b"".join(map(_write_member, m.members))),
}

_READERS: dict[int, Callable[[Decoder], Message]] = {
    0: lambda d: Follow(DiagramId(_read_uuid(d)), d.read_var_bytes()),
    1: lambda _: Unfollow(),
    2: _read_enter,
    3: lambda d: Leave(d.read_var_uint()),
    4: lambda d: Say(d.read_var_uint(), d.read_var_bytes()),
    5: _read_hear,
    6: _read_tell,
    7: lambda d: Acknowledged(d.read_var_uint(), d.read_var_uint()),
    8: lambda d: Refused(d.read_var_uint(), d.read_var_string()),
    9: lambda d: RoleChanged(d.read_var_uint(), _read_role(d)),
    10: lambda d: Ended(d.read_var_uint(), d.read_var_uint(), d.read_var_string()),
    11: _read_lost,
    12: _read_bring,
    13: lambda d: Question(d.read_var_uint(), d.read_var_uint(), d.read_var_bytes()),
    14: lambda d: Reply(d.read_var_uint(), d.read_byte() != 0, d.read_var_bytes()),
    15: lambda _: Census(),
    16: _read_counted,
}

