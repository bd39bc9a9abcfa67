"""The life of a room: the table is complete and never leads back."""

from rooms.lifecycle import NEXT, Happening, Phase


def test_every_phase_knows_what_every_happening_means() -> None:
    assert {(phase, happening) for phase in Phase for happening in Happening} == set(NEXT)


def test_no_happening_leads_back() -> None:
    for (phase, _), after in NEXT.items():
        assert after.value >= phase.value
