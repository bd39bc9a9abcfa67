"""The servers that can be measured, by name."""

from bench.servers.base import Account, Room, Server, ServerError
from bench.servers.peers import HocuspocusServer, YWebsocketServer
from bench.servers.tmi import Tmi, TmiHocuspocus

SERVERS: dict[str, type[Server]] = {
    server.name: server for server in (Tmi, TmiHocuspocus, HocuspocusServer, YWebsocketServer)
}
OURS = frozenset((Tmi.name, TmiHocuspocus.name))

__all__ = ["OURS", "SERVERS", "Account", "Room", "Server", "ServerError"]
