"""The port `DiagramWrites`."""

from dataclasses import replace
from typing import cast
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.diagrams import DiagramFields, DiagramImage
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import Actor, ChangeType, Deed, ObjectType
from tmi.domain.ids import DiagramId, Seq, ThreatModelId, UserId
from tmi.domain.ports import DiagramWrites, Page

DEED = Deed(Actor(UserId(uuid4()), "tmi", "a@tmi.local", "a@tmi.local", "A"), ChangeType.UPDATED)
FIELDS = DiagramFields("New", "d", DiagramImage("PHN2Zz4=", 7), False, False, {"a": "1", "b": "ü"})


async def test_fields_are_stored_under_the_next_version(ports: Ports) -> None:
    diagram = await ports.diagram()
    writes = cast(DiagramWrites, ports.diagrams)
    written = await writes.write(diagram.threat_model_id, diagram.id, FIELDS, DEED, expected=1, seq=Seq(3))
    assert (FIELDS, 2, diagram.alias) == (written.fields, written.version, written.alias)
    assert diagram.modified_at <= written.modified_at
    assert written == await writes.get(diagram.threat_model_id, diagram.id)
    ((event, *_), _) = await ports.trail.of_object(
        diagram.threat_model_id, ObjectType.DIAGRAM, diagram.id, Page(10, 0)
    )
    assert (2, Seq(3), DEED.actor) == (event.event.version, event.event.seq, event.event.actor)
    assert event.event.summary is not None
    assert {"cells", "name", "image"} <= {*event.event.summary.split(", ")}
    # Another write came in between: what this one leaves alone stays as that one left it.
    between = replace(diagram.fields, metadata={"by": "another"})
    await writes.write(diagram.threat_model_id, diagram.id, between, DEED)
    mine = replace(diagram.fields, name="Mine")
    merged = await writes.write(diagram.threat_model_id, diagram.id, mine, DEED, read=diagram.fields)
    assert ("Mine", {"by": "another"}) == (merged.name, dict(merged.metadata))

    again = await writes.write(diagram.threat_model_id, diagram.id, diagram.fields, DEED)
    assert (diagram.fields, 5) == (again.fields, again.version)
    pictured = DiagramFields("New", None, DiagramImage(None, None), True, True)
    assert pictured == (await writes.write(diagram.threat_model_id, diagram.id, pictured, DEED)).fields


async def test_another_version_than_expected_and_another_parent_are_refused(ports: Ports) -> None:
    diagram = await ports.diagram()
    writes = cast(DiagramWrites, ports.diagrams)
    with pytest.raises(Conflict):
        await writes.write(diagram.threat_model_id, diagram.id, FIELDS, DEED, expected=2)
    with pytest.raises(NotFound):
        await writes.write(ThreatModelId(uuid4()), diagram.id, FIELDS, DEED)
    with pytest.raises(NotFound):
        await writes.write(diagram.threat_model_id, DiagramId(uuid4()), FIELDS, DEED, expected=1)
    assert diagram == await writes.get(diagram.threat_model_id, diagram.id)
