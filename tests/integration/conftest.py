"""These tests run on the service's own loop, since transports differ in when they pause, close and flush."""

from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    """pytest-asyncio's hook: what makes the loop of an async test."""
    return {"uvloop": uvloop.new_event_loop}
