"""Hosts on this machine: network namespaces that a bridge joins, and cables between them that can be pulled.

Linux, iproute2 and the right to make namespaces are needed (`NotPossible` otherwise). Addresses are those of
RFC 2544, which are routed nowhere.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COMMAND_S = 10.0
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 3).close()
except ConnectionRefusedError:
    pass
"""
"""Somebody at the other end says that nobody listens."""


class NotPossible(Exception):
    """This machine, or this user of it, can't have network namespaces that reach each other."""


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one cable to the bridge."""

    namespace: str
    address: str
    cable: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes before a command that is to run there."""
        return ("ip", "netns", "exec", self.namespace)

    def pull(self) -> None:
        """Pull the cable: nothing gets through, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.cable, "up")


@dataclass(frozen=True, slots=True)
class Network:
    """Some hosts, and the address of this one on their bridge."""

    address: str
    hosts: dict[str, Host]


@contextlib.contextmanager
def bridged(names: Sequence[str]) -> Iterator[Network]:
    """Make a host for each name. Raises NotPossible."""
    if shutil.which("ip") is None:
        raise NotPossible("iproute2 is not installed")
    tag = f"tmi{os.getpid()}"
    third = random.randrange(256)
    network = Network(
        f"198.18.{third}.1",
        {
            name: Host(f"{tag}-{name}", f"198.18.{third}.{number}", f"{tag}{name}")
            for number, name in enumerate(names, 2)
        },
    )
    with contextlib.ExitStack() as stack:
        try:
            _make(network, tag, stack)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotPossible(getattr(error, "stderr", None) or str(error)) from error
        yield network


def _make(network: Network, bridge: str, stack: contextlib.ExitStack) -> None:
    _ip("link", "add", bridge, "type", "bridge")
    stack.callback(_ip, "link", "del", bridge)
    _ip("addr", "add", f"{network.address}/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    for host in network.hosts.values():
        _ip("netns", "add", host.namespace)
        stack.callback(_ip, "netns", "del", host.namespace)
        _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("link", "set", host.cable, "master", bridge, "up")
        inside = ("-n", host.namespace)
        _ip(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
    first, *others = network.hosts.values()
    for address in (network.address, *(other.address for other in others)):
        _run(*first.prefix, sys.executable, "-c", PROBE, address)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_S)
