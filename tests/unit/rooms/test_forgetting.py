"""A room that is over is freed soon, and not by the garbage collector, which would free many at once."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.unit.rooms.conftest import World, runner_of, until


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
async def test_a_room_that_is_over_is_freed_without_the_collector(world: World) -> None:
    editor = await world.editor().join()
    editor.edit("a", 1)
    await until(lambda: editor.acknowledged == 2)
    assert editor.session is not None
    runner = runner_of(editor.session)
    freed: list[str] = []
    weakref.finalize(runner, freed.append, "runner")
    weakref.finalize(runner.room.document._doc, freed.append, "document")
    editor.session.leave()
    editor.session = None
    del runner
    await until(lambda: not list(world.rooms.runners))
    await until(lambda: len(freed) == 2)


@pytest.mark.usefixtures("_no_collector")
async def test_large_documents_are_freed_one_by_one(world: World) -> None:
    freed_in: list[int] = []
    editors = []
    turns = 0
    sweep = world.rooms._retiring.free_some

    def counted() -> None:
        nonlocal turns
        turns += 1
        sweep()

    world.rooms._retiring.free_some = counted  # type: ignore[method-assign]
    for _ in range(4):
        world.diagram = (await world.diagrams.create(world.model, "d", "DFD-1.0.0", None)).id
        editor = await world.editor().join()
        editors.append(editor)
        assert editor.session is not None
        document = runner_of(editor.session).room.document
        document.bytes_estimate = 600 * 1024
        weakref.finalize(document._doc, lambda: freed_in.append(turns))
        del document
    for editor in editors:
        assert editor.session is not None
        editor.session.leave()
        editor.session = None
    await until(lambda: len(freed_in) == 4)
    assert len(set(freed_in)) >= 3, freed_in
