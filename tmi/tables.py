"""Tables of nodes, rooms and keys, for people at a terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rooms.administration import NodeStatus, RoomStatus, Unreachable
from rooms.nodes.addresses import Address
from tmi.domain.sign_ins import KeyTerm

_UNITS = ("B", "KiB", "MiB", "GiB")
RIGHT = ">"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()) -> str:
    """Columns under their names, as wide as what is in them; those in `right` are aligned there."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    aligns = [RIGHT if name in right else "<" for name in head]
    lines = [
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(row, aligns, widths, strict=True))
        for row in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def table_of_nodes(nodes: Sequence[NodeStatus], silent: Sequence[Unreachable]) -> str:
    """Everybody who is said to be alive."""
    head = ("NAME", "ID", "STATE", "ROOMS", "FOLLOWED", "CLIENTS", "UP", "VERSION", "URL")
    rows = [
        (
            node.name,
            node.id,
            "draining" if node.is_draining else "serving",
            str(node.rooms_owned),
            str(node.rooms_followed),
            str(node.sessions),
            duration(node.uptime_s),
            node.version,
            _place(node.url),
        )
        for node in nodes
    ]
    rows += [(node.name, node.id, "silent", "", "", "", "", "", _place(node.url)) for node in silent]
    return table(head, rows, frozenset({"ROOMS", "FOLLOWED", "CLIENTS", "UP"}))


def _place(url: str) -> str:
    """Where nodes of other machines reach one, if any do."""
    address = Address.of(url)
    return address.tcp or url


def table_of_rooms(rooms: Sequence[RoomStatus]) -> str:
    """Who owns what, how large, how busy, how long since the last commit."""
    head = ("DIAGRAM", "OWNER", "CLIENTS", "NODES", "SIZE", "SEQ", "UNSAVED", "EDITS/S", "COMMITTED")
    rows = [
        (
            room.id,
            room.node_name,
            str(room.sessions),
            str(1 + room.followers),
            size(room.document_bytes),
            str(room.seq),
            str(room.unsaved),
            f"{room.edits_per_s:.1f}",
            "-" if room.since_commit_s is None else f"{duration(room.since_commit_s)} ago",
        )
        for room in rooms
    ]
    return table(head, rows, frozenset(head[2:]))


def table_of_keys(terms: Sequence[KeyTerm]) -> str:
    """When each key signs and verifies."""
    head = ("KEY", "ALGORITHM", "SIGNS FROM", "SIGNS UNTIL", "VERIFIES UNTIL")
    rows = [
        (
            term.kid,
            term.algorithm,
            moment(term.signs_from),
            moment(term.signs_until),
            moment(term.verifies_until),
        )
        for term in terms
    ]
    return table(head, rows)


def moment(at: datetime | None) -> str:
    """`2026-11-26 12:00:00 UTC`."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S UTC}"


def size(bytes_: float) -> str:
    """`1.2 MiB`."""
    for unit in _UNITS[:-1]:
        if bytes_ < 1024:
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    return f"{bytes_:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """`0.4 s`, `3 min`, `5 h` or `12 d`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for limit, divisor, unit in ((3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
