"""The port `Diagrams`."""

from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import NotFound, VersionMismatch
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.ports import Page


async def test_a_new_diagram_has_what_was_given(ports: Ports) -> None:
    model = await ports.model(await ports.user())

    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", "How it flows")

    assert (model.id, 1, "Flow", "DFD-1.0.0", "How it flows", 1) == (
        diagram.threat_model_id,
        diagram.alias,
        diagram.name,
        diagram.type,
        diagram.description,
        diagram.version,
    )
    assert diagram == await ports.diagrams.get(model.id, diagram.id)


async def test_aliases_count_per_threat_model_and_are_never_given_twice(ports: Ports) -> None:
    alice = await ports.user()
    model, other = await ports.model(alice), await ports.model(alice)
    diagrams = [await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None) for _ in range(2)]
    await ports.diagrams.delete(model.id, diagrams[1].id)

    diagrams.append(await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None))

    assert [1, 2, 3] == [d.alias for d in diagrams]
    assert 1 == (await ports.diagrams.create(other.id, "Flow", "DFD-1.0.0", None)).alias


async def test_a_page_lists_the_oldest_first_and_the_total_counts_all(ports: Ports) -> None:
    model = await ports.model(await ports.user())
    made = [await ports.diagrams.create(model.id, f"Flow {n}", "DFD-1.0.0", None) for n in range(5)]

    assert (made[1:3], 5) == await ports.diagrams.of_threat_model(model.id, Page(2, 1))
    assert ([], 5) == await ports.diagrams.of_threat_model(model.id, Page(2, 5))
    assert [d.id for d in made] == list(await ports.diagrams.ids_of(model.id))


async def test_a_diagram_of_another_version_than_expected_is_not_deleted(ports: Ports) -> None:
    diagram = await ports.diagram()
    place = diagram.threat_model_id, diagram.id

    with pytest.raises(VersionMismatch):
        await ports.diagrams.delete(*place, expected=2)

    assert diagram == await ports.diagrams.get(*place)
    await ports.diagrams.delete(*place, expected=1)
    with pytest.raises(NotFound):
        await ports.diagrams.get(*place)


async def test_a_diagram_is_not_found_under_another_threat_model(ports: Ports) -> None:
    diagram = await ports.diagram()
    other = await ports.model(await ports.user())

    with pytest.raises(NotFound):
        await ports.diagrams.get(other.id, diagram.id)
    with pytest.raises(NotFound):
        await ports.diagrams.delete(other.id, diagram.id)

    assert diagram == await ports.diagrams.get(diagram.threat_model_id, diagram.id)


async def test_what_does_not_exist_is_not_found(ports: Ports) -> None:
    unknown = ThreatModelId(uuid4())

    with pytest.raises(NotFound):
        await ports.diagrams.create(unknown, "Flow", "DFD-1.0.0", None)
    with pytest.raises(NotFound):
        await ports.diagrams.of_threat_model(unknown, Page(20, 0))
    with pytest.raises(NotFound):
        await ports.diagrams.get(unknown, DiagramId(uuid4()))
    assert [] == list(await ports.diagrams.ids_of(unknown))
