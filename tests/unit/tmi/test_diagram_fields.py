"""Writes of diagrams on top of what others wrote meanwhile."""

from dataclasses import replace

import pytest

from tmi.domain.diagrams import METADATA_MAX, DiagramFields
from tmi.domain.errors import Conflict

READ = DiagramFields("Flow", None, None, True, False, {"kept": "1", "gone": "1", "changed": "1"})


def test_each_field_and_each_key_is_who_wrote_it_last_by_what_they_changed() -> None:
    present = replace(READ, name="Theirs", metadata={**READ.metadata, "theirs": "2", "changed": "2"})
    mine = replace(READ, description="Mine", metadata={"kept": "1", "changed": "3", "mine": "3"})

    merged = mine.on_top_of(READ, present)

    assert ("Theirs", "Mine") == (merged.name, merged.description)
    assert {"kept": "1", "changed": "3", "theirs": "2", "mine": "3"} == merged.metadata


def test_metadata_that_nobody_touched_here_is_theirs() -> None:
    present = replace(READ, metadata={"theirs": "2"})
    assert {"theirs": "2"} == replace(READ, name="Mine").on_top_of(READ, present).metadata


def test_together_there_may_not_be_more_keys_than_allowed() -> None:
    half = METADATA_MAX // 2 + 1
    present = replace(READ, metadata={f"a{n}": "1" for n in range(half)})
    mine = replace(READ, metadata={f"b{n}": "1" for n in range(half)})
    with pytest.raises(Conflict, match="more than 100 keys"):
        mine.on_top_of(READ, present)
