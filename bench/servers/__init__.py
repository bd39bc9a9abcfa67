"""The servers that can be measured, by name."""

from bench.servers.base import Account, Room, Server, ServerError
from bench.servers.peers import HocuspocusServer, PycrdtWebsocketServer, YWebsocketServer
from bench.servers.sender import Sender
from bench.servers.tmi import Tmi, TmiHocuspocus

SERVERS: dict[str, type[Server]] = {
    server.name: server
    for server in (Tmi, TmiHocuspocus, HocuspocusServer, YWebsocketServer, PycrdtWebsocketServer)
}
OURS = frozenset((Tmi.name, TmiHocuspocus.name, Sender.name))
"""What has goals to meet, the load generator included."""

__all__ = ["OURS", "SERVERS", "Account", "Room", "Sender", "Server", "ServerError"]
