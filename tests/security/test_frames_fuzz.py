"""Mutated frames: only a clean refusal, a document that lives on, no allocation by claim.

`TMI_FUZZ_FRAMES` says how many frames are tried in all.
"""

import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pycrdt
import pytest

from crdt import awareness, hocuspocus, y_websocket
from crdt.document import Document
from crdt.lib0 import write_var_uint
from crdt.messages import Awareness, Message, SyncStep1, SyncStep2, Update
from crdt.updates import MAX_NESTING
from tests.unit.crdt.peers import Editor, content, history
from tmi.domain.errors import BadFrame

FRAMES = int(os.environ.get("TMI_FUZZ_FRAMES", "100000"))
SEED = int(os.environ.get("TMI_FUZZ_SEED", "20"))
MIB = 1024 * 1024
WORST_STALL_S = 0.05
"""CPU time of one frame."""


@pytest.fixture(autouse=True, scope="module")
def _quiet_panics() -> Iterator[None]:
    """Rust prints each panic with a backtrace."""
    before = os.environ.get("RUST_BACKTRACE")
    os.environ["RUST_BACKTRACE"] = "0"
    yield
    os.environ.pop("RUST_BACKTRACE") if before is None else os.environ.update(RUST_BACKTRACE=before)


EDGES = [write_var_uint(number) for number in (0, 2**31, 2**32 - 9, 2**32 - 2, 2**32 - 1, 2**32)]
"""Where clocks of 32 bits end."""


def mutated(frame: bytes, choice: random.Random) -> bytes:
    """The frame with one to three bytes changed, lost, doubled or cut off, or a number at its edges."""
    bad = bytearray(frame)
    for _ in range(choice.randrange(1, 4)):
        at = choice.randrange(len(bad) + 1)
        match choice.randrange(8):
            case 0 if at < len(bad):
                bad[at] = choice.randrange(256)
            case 1 if at < len(bad):
                bad[at] ^= 1 << choice.randrange(8)
            case 2:
                del bad[at : at + 1]
            case 3:
                bad[at:at] = choice.choice((b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\x7f"))
            case 4:
                del bad[at:]
            case 5:
                bad[at : at + 1] = choice.choice(EDGES)
            case 6:
                bad[at : at + 1] = choice.choice((b"\0", b"\1", b"\x81", b"\n")) + choice.choice(EDGES)
            case _:
                bad[at:at] = bad[at : at + choice.randrange(8)]
    return bytes(bad)


def resident() -> int:
    """Bytes of memory in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Target:
    """A document with what a room does to it, rebuilt now and then since accepted mutations stay in it."""

    def __init__(self) -> None:
        self.log, _ = history(1, 60)
        self.victim = Editor(99)
        self.renew()

    def renew(self) -> None:
        self.document = Document.load(None, self.log)

    def take(self, message: Message) -> None:
        if isinstance(message, Update | SyncStep2):
            self.document.would_add(message.update)
            before = self.document.version
            applied = self.document.apply(message.update)
            assert applied.adds == (self.document.version > before)
        elif isinstance(message, SyncStep1):
            self.document.difference(message.state_vector)
        elif isinstance(message, Awareness):
            for entry in awareness.parse(message.data):
                awareness.is_json_object_or_null(entry.state)

    def still_works(self) -> None:
        """An honest edit still goes in, and what the document encodes is what it shows."""
        self.victim.cells["after"] = self.victim.doc.get_state().hex()
        assert self.document.apply(self.victim.updates[-1]).adds
        copy = Document.load(self.document.encode(), [])
        assert 0 == copy.rejected
        assert not copy.would_add(self.document.encode())
        assert content(copy.doc) == content(self.document.doc)


def frames(target: Target) -> list[bytes]:
    """Honest frames of every kind."""
    whole = target.document.encode()
    updates = [*target.log, whole, pycrdt.merge_updates(*target.log[10:30])]
    entries = [awareness.Entry(n + 5, n, b'{"user":{"name":"a"},"cursor":[1,2]}') for n in range(3)]
    return [
        *(y_websocket.update(update) for update in updates),
        y_websocket.sync_step2(whole),
        *(y_websocket.sync_step1(target.document.state_vector()) for _ in range(8)),
        *(y_websocket.awareness(awareness.encode(entries)) for _ in range(8)),
        y_websocket.QUERY_AWARENESS,
    ]


def receive_y_websocket(target: Target, frame: bytes) -> None:
    for message in y_websocket.decode(frame):
        target.take(message)


def receive_hocuspocus(target: Target, frame: bytes) -> None:
    message = hocuspocus.decode(frame).message
    if isinstance(message, Message):
        target.take(message)


@pytest.mark.parametrize(
    ("receive", "wrap"),
    [
        (receive_y_websocket, lambda body: body),
        (receive_hocuspocus, lambda body: hocuspocus.prefix("d") + body),
    ],
    ids=["y-websocket", "hocuspocus"],
)
def test_mutated_frames_are_refused_or_taken_and_the_document_lives(
    receive: Callable[[Target, bytes], None], wrap: Callable[[bytes], bytes]
) -> None:
    choice = random.Random(SEED)
    target = Target()
    honest = [wrap(body) for body in frames(target)]
    for frame in honest:
        receive(target, frame)
    memory = resident()
    refused, worst = 0, 0.0
    for number in range(FRAMES // 2):
        if number % 500 == 499:
            target.still_works()
            target.renew()
        frame = mutated(choice.choice(honest), choice)
        began = time.thread_time()
        try:
            receive(target, frame)
        except BadFrame:
            refused += 1
        worst = max(worst, time.thread_time() - began)
    assert 0 < refused < FRAMES // 2
    assert worst < WORST_STALL_S
    assert resident() - memory < 10 * MIB


IN_ROOT = bytes.fromhex("010107002801016d016b")
HUGE = [write_var_uint(number) for number in (2**20, 2**24, 500_000_000, 2**32 - 1, 2**53 - 1)]
BOMBS = {
    "clients": b"",
    "structs": b"\1",
    "second client's structs": b"\2\1\7\0\0\1",
    "deleted": bytes.fromhex("010107002101016d016b"),
    "JSON": bytes.fromhex("010107002201016d016b"),
    "bytes": bytes.fromhex("010107002301016d016b"),
    "string": bytes.fromhex("010107002401016d016b"),
    "embed": bytes.fromhex("010107002501016d016b"),
    "format": bytes.fromhex("010107002601016d016b"),
    "values": IN_ROOT,
    "list": IN_ROOT + b"\1\x75",
    "object": IN_ROOT + b"\1\x76",
    "objects in objects": IN_ROOT + b"\1" + b"\x76\x7f\1a" * 100 + b"\x76",
    "buffer": IN_ROOT + b"\1\x74",
    "text": IN_ROOT + b"\1\x77",
    "collected": bytes.fromhex("0101070000"),
    "skipped": bytes.fromhex("010107000a"),
    "deleting clients": b"\0",
    "ranges": b"\0\1\7",
    "a range": b"\0\1\7\1\0",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_length_bomb_allocates_nothing(bomb: bytes) -> None:
    document = Document()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in HUGE:
        for tail in (b"", b"\0", b"\0\0"):
            for harm in (document.apply, document.would_add):
                try:
                    harm(bomb + number + tail)
                except BadFrame:
                    continue
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak <= 8 * MIB


def test_a_bomb_in_a_state_vector_or_in_awareness_allocates_nothing() -> None:
    document = Document()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in HUGE:
        with pytest.raises(BadFrame):
            document.difference(number)
        with pytest.raises(BadFrame):
            document.difference(number + b"\7\1" * 20)
        with pytest.raises(BadFrame):
            awareness.parse(number)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak <= 8 * MIB


@pytest.mark.parametrize("opening", [b"\x75\1", b"\x76\1\1a", b"\x75\2\x7e", b"\x76\2\1a\x7e\1b"])
def test_nesting_that_would_overflow_the_stack_is_refused(opening: bytes) -> None:
    document = Document()
    for levels in (MAX_NESTING + 1, 50_000, 200_000):
        bomb = IN_ROOT + b"\1" + opening * levels + b"\x7e\0"
        with pytest.raises(BadFrame):
            document.apply(bomb)
        with pytest.raises(BadFrame):
            document.would_add(bomb)


def test_nesting_that_the_stack_holds_can_be_applied_encoded_and_dropped() -> None:
    document = Document()
    assert document.apply(IN_ROOT + b"\1" + b"\x75\1" * MAX_NESTING + b"\x7e\0").adds
    copy = Document.load(document.encode(), [document.encode()])
    assert copy.encode() == document.encode()
    assert document.apply(bytes.fromhex("00010701" + "0001")).adds
    assert content(document.doc)
