"""What an operator reads in a terminal."""

import pytest

from rooms.administration import NodeStatus, RoomStatus, Unreachable
from tmi.tables import duration, size, table_of_nodes, table_of_rooms


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    rooms = [
        RoomStatus("room-1", "1", "a", 12, 2, 3_500_000, 900, 0, 12.34, 0.41),
        RoomStatus("room-2", "2", "long-name", 0, 0, 10, 1, 3, 0.0, None),
    ]
    assert [
        "DIAGRAM  OWNER      CLIENTS  NODES     SIZE  SEQ  UNSAVED  EDITS/S  COMMITTED",
        "room-1   a               12      3  3.3 MiB  900        0     12.3  0.4 s ago",
        "room-2   long-name        0      1     10 B    1        3      0.0          -",
    ] == table_of_rooms(rooms).splitlines()


def test_a_node_that_does_not_answer_is_shown() -> None:
    shown = table_of_nodes(
        [NodeStatus("1", "a", "ws://a", "0.1", 3700, 2, 1, 5, True)], [Unreachable("2", "b", "ws://b", "no")]
    ).splitlines()
    assert ["draining", "silent"] == [line.split()[2] for line in shown[1:]]


def test_a_deployment_without_rooms_has_a_head_alone() -> None:
    assert 1 == len(table_of_rooms([]).splitlines())


@pytest.mark.parametrize(
    ("shown", "seconds"), [("0.4 s", 0.4), ("3 min", 185), ("2 h", 7300), ("12 d", 12.2 * 86400)]
)
def test_times_are_in_one_unit(shown: str, seconds: float) -> None:
    assert shown == duration(seconds)


@pytest.mark.parametrize(
    ("shown", "bytes_"), [("0 B", 0), ("1.5 KiB", 1536), ("2.0 GiB", 2**31), ("3000.0 GiB", 3000 * 2**30)]
)
def test_sizes_are_in_one_unit(shown: str, bytes_: int) -> None:
    assert shown == size(bytes_)
