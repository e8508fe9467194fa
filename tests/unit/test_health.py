"""The word for the state of each component, by what was found."""

from __future__ import annotations

import time

import pytest

from insitu.health import Component, database_state, dispatcher_state, receiver_state, worst
from insitu.life import Life


@pytest.mark.parametrize(
    ("seconds", "locked", "silences", "state", "says"),
    [
        (0.01, None, [None], "ok", "answers"),
        (2.5, None, [], "degraded", "slowly"),
        (0.01, 4.0, [], "ok", "answers"),
        (0.01, 6.0, [], "degraded", "lock"),
        (0.01, None, [None, -10.0], "degraded", "fell silent"),
        (0.01, None, [-100.0], "ok", "answers"),
    ],
)
def test_a_database_that_is_slow_locked_or_was_silent_is_degraded(
    seconds: float, locked: float | None, silences: list[float | None], state: str, says: str
) -> None:
    found = database_state(seconds, locked, [None if each is None else time.time() + each for each in silences])
    assert found.state == state
    assert says in found.says


def test_a_receiver_counts_only_the_processes_that_live() -> None:
    alive, silent = Life("receiver", 3, {"associations": 7}), Life("receiver", 31, {"associations": 5})
    assert receiver_state([alive]).facts == {"processes": 1, "associations": 7}
    assert receiver_state([alive]).state == "ok"
    assert receiver_state([alive, silent]).state == "degraded"
    assert receiver_state([alive, silent]).facts == {"processes": 1, "associations": 7}
    for nobody in ([silent], [], [Life("dispatcher", 1, {})]):
        assert "nothing is received" in receiver_state(nobody).says


def test_a_dispatcher_is_degraded_without_a_sign_of_life_or_with_a_backlog() -> None:
    alive = Life("dispatcher", 3, {})
    assert dispatcher_state(9_999, [alive]).state == "ok"
    assert dispatcher_state(10_000, [alive]).state == "degraded"
    assert dispatcher_state(0, []).state == "degraded"
    assert dispatcher_state(0, [Life("dispatcher", 31, {})]).state == "degraded"
    assert dispatcher_state(0, [alive, Life("dispatcher", 31, {})]).state == "ok"  # another one works


def test_the_whole_is_as_its_worst_part() -> None:
    parts = [Component(state, "") for state in ("ok", "degraded", "away")]
    assert [worst({str(i): part for i, part in enumerate(parts[: n + 1])}) for n in range(3)] == [
        "ok",
        "degraded",
        "away",
    ]
