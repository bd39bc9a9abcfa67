"""pycrdt-websocket with its defaults, on Hypercorn and uvloop, where the load tester says."""

import os

import uvloop
from hypercorn import Config
from hypercorn.asyncio import serve
from pycrdt.websocket import ASGIServer, WebsocketServer


async def main() -> None:
    config = Config()
    config.bind = [f"{os.environ['HOST']}:{os.environ['PORT']}"]
    async with WebsocketServer() as rooms:
        await serve(ASGIServer(rooms), config, mode="asgi")  # type: ignore[arg-type]


uvloop.run(main())
