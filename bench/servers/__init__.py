"""The servers that can be measured, by name. A `Deployment` is chosen by its address instead."""

from bench.servers.base import Account, Room, Server, ServerError
from bench.servers.deployment import Deployment
from bench.servers.peers import HocuspocusServer, PycrdtWebsocketServer, YWebsocketServer
from bench.servers.sender import Sender
from bench.servers.tmi import Tmi, TmiHocuspocus, TmiTwoWorkers

SERVERS: dict[str, type[Server]] = {
    server.name: server
    for server in (
        Tmi, TmiTwoWorkers, TmiHocuspocus, HocuspocusServer, YWebsocketServer, PycrdtWebsocketServer,
    )
}
DEFAULT = (Tmi.name, HocuspocusServer.name, YWebsocketServer.name, PycrdtWebsocketServer.name)
OURS = frozenset((Tmi.name, TmiTwoWorkers.name, TmiHocuspocus.name, Deployment.name, Sender.name))
"""What has goals to meet, the load generator included."""

__all__ = ["DEFAULT", "OURS", "SERVERS", "Account", "Deployment", "Room", "Sender", "Server", "ServerError"]
