"""Where nodes are reached: the two ways in one string, and who takes which."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rooms.nodes import unix
from rooms.nodes.addresses import Address, are_siblings, is_worker, socket_of_worker, this_machine
from rooms.nodes.links import PATH, _way_to

TCP = "ws://10.0.0.5:7946"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A socket that listens."""
    path = socket_of_worker(tmp_path, 1)
    with unix.listening_at(path):
        yield path


def both(path: str, machine: str | None = None) -> str:
    return str(Address(TCP, path, machine or this_machine()))


@pytest.mark.parametrize(
    "address",
    [
        Address(TCP),
        Address("ws://[fd00::5]:7946"),
        Address("wss://tmi.example.org"),
        Address(path="/run/tmi/worker-1.sock"),
        Address(TCP, "/run/a b&c?d=e#f/worker-1.sock", "a-machine"),
    ],
)
def test_what_is_written_is_read(address: Address) -> None:
    assert address == Address.of(str(address))


def test_a_node_of_this_machine_is_reached_by_its_unix_socket(path: str) -> None:
    assert Address(path=path) == Address.of(both(path)).way
    address, factory = _way_to(both(path))
    assert factory is not None
    assert f"ws://node{PATH}" == address
    with factory(None) as connected:
        assert path == connected.getpeername()


def test_a_node_of_another_machine_is_reached_by_tcp_whatever_lies_at_its_path(path: str) -> None:
    assert (TCP + PATH, None) == _way_to(both(path, "another-machine"))


def test_a_socket_that_is_not_there_is_no_way(tmp_path: Path) -> None:
    """Of a container on this machine, perhaps, which has other files."""
    assert (TCP + PATH, None) == _way_to(both(socket_of_worker(tmp_path, 1)))


def test_where_there_is_one_way_only_it_is_taken(path: str) -> None:
    assert (TCP + PATH, None) == _way_to(TCP)
    assert Address(path=path) == Address.of(f"unix:{path}").way


def test_a_version_that_knows_tcp_only_dials_the_same_host_and_port(path: str) -> None:
    """It puts its own path behind the whole, and the listener asks for none."""
    parts = urlsplit(both(path) + PATH)
    assert ("ws", "10.0.0.5", 7946, "", "") == (
        parts.scheme,
        parts.hostname,
        parts.port,
        parts.path,
        parts.fragment,
    )


def test_workers_of_one_parent_know_each_other() -> None:
    one = [f"unix:/run/one/worker-{n}.sock" for n in (1, 2)]
    assert are_siblings(*one)
    assert are_siblings(both("/run/one/worker-1.sock"), both("/run/one/worker-12.sock"))
    assert not are_siblings(one[0], "unix:/run/two/worker-2.sock")
    assert not are_siblings(both("/run/one/worker-1.sock"), both("/run/one/worker-2.sock", "another-machine"))
    assert not are_siblings(TCP, TCP)
    assert not are_siblings("unix:/run/a.sock", "unix:/run/b.sock"), "nodes by themselves, in one folder"
    assert [True, True, False, False] == [is_worker(url) for url in (*one, TCP, "unix:/run/a.sock")]


def test_a_socket_of_this_machine_ignores_options_of_tcp(path: str) -> None:
    with unix.connected_to(path) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert 0 == connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert 0o600 == Path(path).stat().st_mode & 0o777


def test_who_listens_at_a_path_replaces_an_earlier_process(path: str) -> None:
    with unix.listening_at(path) as again, unix.connected_to(path), again.accept()[0] as accepted:
        assert isinstance(accepted, unix.UnixSocket)


def test_nobody_at_a_path_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unix.connected_to(str(tmp_path / "nobody.sock"))
