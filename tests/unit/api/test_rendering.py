"""What is put together by hand is in the shape of the schemas."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest

from api import rendering, schemas
from api.bodies import wire
from persistence.memory.reads import _stored
from tmi.domain.children import Child, shown
from tmi.domain.ids import ChildId, ThreatModelId, UserId
from tmi.domain.kinds import KINDS, Kind
from tmi.domain.model import ThreatModel, ThreatModelSummary, User
from tmi.domain.ports import Contents
from tmi.domain.roles import Grant, Principal, Role

AT = datetime(2026, 11, 26, 12, 30, 15, 250_000, UTC)
ALICE = User(UserId(uuid4()), "tmi", "alice@tmi.local", "alice@tmi.local", 'Älice "A"', AT)
BARE = ThreatModel(
    id=ThreatModelId(uuid4()),
    alias=7,
    name="Shop",
    description=None,
    threat_model_framework="STRIDE",
    issue_uri=None,
    is_confidential=False,
    owner=None,
    created_by=None,
    grants=(Grant(Principal("user", "tmi", "x@tmi.local"), Role.OWNER),),
    created_at=AT,
    modified_at=AT + timedelta(seconds=1),
    version=3,
)
FULL = replace(
    BARE,
    description="d",
    issue_uri="https://t.example/1",
    owner=ALICE,
    created_by=ALICE,
    grants=(
        Grant(Principal("user", "tmi", "a", "a@x.example", "A"), Role.OWNER),
        Grant(Principal("group", "*", "everyone"), Role.READER),
    ),
    status="in_review",
    status_updated=AT,
    security_reviewer=Principal("user", "corp", "r", "r@x.example", None),
    metadata={"b": "2", "a": "1"},
    deleted_at=AT,
)
COUNTS = {"diagram": 1, "threat": 2, "asset": 3, "document": 4, "note": 5, "repository": 6}


def json_of(body: Any) -> Any:
    return orjson.loads(wire(body))


@pytest.mark.parametrize("model", [BARE, FULL], ids=["bare", "full"])
def test_a_threat_model_is_what_its_schema_says(model: ThreatModel) -> None:
    expected = schemas.ThreatModelOutput.of(model)
    assert json_of(expected) == json_of(rendering.whole(model, Contents([], [])))


@pytest.mark.parametrize("model", [BARE, FULL], ids=["bare", "full"])
def test_a_row_of_the_list_is_what_its_schema_says(model: ThreatModel) -> None:
    body = rendering.models([ThreatModelSummary(model, COUNTS), ThreatModelSummary(model, {})], total=9)
    listed, without_counts = json_of(body)["threat_models"]
    item = schemas.ThreatModelListItem.model_validate(listed)
    assert json_of(item) == listed
    whole = json_of(schemas.ThreatModelOutput.of(model))
    assert {k: v for k, v in listed.items() if not k.endswith("_count")} == {
        k: whole[k] for k in schemas.ThreatModelListItem.model_fields if k in whole
    }
    assert (1, 2, 3, 4, 5, 6) == (
        item.diagram_count,
        item.threat_count,
        item.asset_count,
        item.document_count,
        item.note_count,
        item.repo_count,
    )
    assert {0} == {value for name, value in without_counts.items() if name.endswith("_count")}
    assert 9 == body["total"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("microsecond", [0, 1, 250_000, 100, 123_456])
def test_a_child_is_what_is_shown_of_it(kind: Kind, microsecond: int) -> None:
    at = AT.replace(microsecond=microsecond)
    fields = {"name": 'Ünï "quoted" \\', "include_in_report": True, "description": "a\nb"}
    for given, metadata in ((fields, {"z": '"', "a": "b"}), ({}, {})):
        child = Child(
            ChildId(uuid4()), BARE.id, kind.name, 3, given, metadata, microsecond == 1, at, AT, None, 5
        )
        text = rendering.text_of(_stored(child), str(BARE.id))
        assert json_of(shown(child)) == orjson.loads(text)
