"""Whom a broadcast goes to, and how often it is framed."""

from collections.abc import Hashable
from typing import cast

from rooms.effects import Broadcast, SessionNumber
from rooms.peer import Follower, Peer
from rooms.subscribers import Subscribers


class Client:
    def __init__(self, framing: Hashable) -> None:
        self.framing = framing
        self.framed = 0
        self.wires: list[bytes] = []

    def frame(self, body: bytes) -> bytes:
        self.framed += 1
        return str(self.framing).encode() + body

    def write(self, wire: bytes) -> None:
        self.wires.append(wire)


class Node:
    framing = None

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, SessionNumber | None]] = []

    def hear(self, body: bytes, but: SessionNumber | None) -> None:
        self.heard.append((body, but))


def add(target: Subscribers, number: SessionNumber, peer: Client | Node) -> None:
    target.add(number, cast(Peer, peer))


def test_a_broadcast_is_framed_once_for_all_of_one_framing() -> None:
    target, clients = Subscribers(), [Client("a"), Client("a"), Client("b")]
    for number, client in enumerate(clients):
        add(target, number, client)
    target.send(Broadcast(b"x"))
    assert [[b"ax"], [b"ax"], [b"bx"]] == [client.wires for client in clients]
    assert [1, 0, 1] == [client.framed for client in clients]


def test_whoever_needs_no_echo_gets_none_and_nothing_is_framed_for_nobody() -> None:
    target, alone = Subscribers(), Client("a")
    add(target, 1, alone)
    target.send(Broadcast(b"x", 1))
    assert [] == alone.wires
    assert 0 == alone.framed


def test_a_node_hears_of_it_bare_and_from_whom_it_is() -> None:
    target, node = Subscribers(), Node()
    add(target, 5, node)
    target.send(Broadcast(b"x", 1))
    assert [(b"x", 1)] == node.heard
    assert target.remove(5, cast(Follower, node))
    target.send(Broadcast(b"y"))
    assert 1 == len(node.heard)


def test_who_is_removed_gets_no_more_and_whether_it_got_any_is_told() -> None:
    target, client = Subscribers(), Client("a")
    add(target, 1, client)
    assert target.remove(1, cast(Peer, client))
    assert not target.remove(1, cast(Peer, client))
    target.send(Broadcast(b"x"))
    assert [] == client.wires
