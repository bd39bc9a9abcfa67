"""Python's client: `pycrdt.Provider` over pycrdt-websocket's `HttpxWebsocket`, both as published."""

import asyncio
import random
from typing import Any

import httpx
from httpx_ws import AsyncWebSocketSession, aconnect_ws
from pycrdt import Array, Doc, Map, Provider, Text
from pycrdt.websocket.websocket import HttpxWebsocket

Json = Any
SHAPES = ("process", "store", "actor", "text-box")


def decode_state_vector(data: bytes) -> dict[str, int]:
    """Client id to clock; `varUint(count) {varUint(client) varUint(clock)}*`, LEB128."""
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    return dict(zip(map(str, numbers[1::2]), numbers[2::2], strict=True))


class PycrdtClient:
    """One document on one socket. Edits made offline go out with the next connection."""

    def __init__(self, base: str, room: str, token: str, seed: int = 1) -> None:
        self._url = f"{base}/{room}"
        self._token = token
        self._random = random.Random(seed)
        self.doc: Doc[Any] = Doc()
        self.cells = self.doc.get("cells", type=Map[Any])
        self.meta = self.doc.get("meta", type=Map[Any])
        self.text = self.doc.get("text", type=Text)
        self.list = self.doc.get("list", type=Array[Any])
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._synced = asyncio.Event()

    async def online(self, timeout_s: float = 30) -> None:
        """Connect and wait for the first sync."""
        self._stop, self._synced = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._run())
        waiting = asyncio.create_task(self._synced.wait())
        await asyncio.wait({self._task, waiting}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            await self._task
        if not self._synced.is_set():
            raise TimeoutError("the Python client did not sync")

    async def offline(self, timeout_s: float = 30) -> None:
        """Send what is queued, close the socket and wait for its end."""
        assert self._task is not None
        self._stop.set()
        async with asyncio.timeout(timeout_s):
            await self._task
        self._task = None

    async def _run(self) -> None:
        socket: AsyncWebSocketSession
        async with (
            httpx.AsyncClient(trust_env=False) as http,
            aconnect_ws(self._url, http, params={"token": self._token}) as socket,
            Provider(self.doc, HttpxWebsocket(socket, self._url)) as provider,
        ):
            await provider.synced.wait()
            self._synced.set()
            await self._stop.wait()

    def edit(self) -> None:
        """One random edit, of the kinds that the JavaScript clients make."""
        pick = self._random
        cell_id = f"5eed0000-0000-4000-8000-{pick.randrange(12):012}"
        kind = pick.randrange(6)
        with self.doc.transaction():
            if kind == 0 or (kind == 1 and cell_id not in self.cells):
                self.cells[cell_id] = self._new_cell(cell_id)
            elif kind == 1:
                cell = self.cells[cell_id]
                cell["position"] = {"x": pick.randrange(2000), "y": pick.randrange(2000)}
            elif kind == 2 and cell_id in self.cells:
                del self.cells[cell_id]
            elif kind == 3:
                self.text.insert(0, pick.choice(("py", "thon ", "é", "🐍")))
            elif kind == 4:
                self.list.append(pick.randrange(1000))
            else:
                self.meta[f"python-{pick.randrange(4)}"] = pick.randrange(1000)

    def _new_cell(self, cell_id: str) -> Map[Any]:
        return Map(
            {
                "id": cell_id,
                "shape": self._random.choice(SHAPES),
                "position": {"x": self._random.randrange(2000), "y": self._random.randrange(2000)},
                "size": {"width": 80, "height": 40},
                "attrs": Map({"text": {"text": "py"}}),
            }
        )

    def content(self) -> dict[str, Json]:
        """The same picture that the driver draws of a JavaScript client."""
        return {
            "cells": self.cells.to_py() or {},
            "meta": self.meta.to_py() or {},
            "text": str(self.text),
            "list": self.list.to_py() or [],
        }

    def state_vector(self) -> dict[str, int]:
        return decode_state_vector(self.doc.get_state())
