"""The off-peak window follows the clock on the wall of the site, over midnight and when the clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from insitu.errors import Invalid
from insitu.nodes.window import is_open
from insitu.settings import Settings, load

NIGHT, BERLIN = "22:00-06:00", "Europe/Berlin"


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        (NIGHT, "2026-01-15T20:59:59", False),  # 21:59:59 in Berlin
        (NIGHT, "2026-01-15T21:00:00", True),
        (NIGHT, "2026-01-15T23:30:00", True),  # after midnight
        (NIGHT, "2026-01-16T04:59:59", True),
        (NIGHT, "2026-01-16T05:00:00", False),  # the end is not included
        (NIGHT, "2026-07-15T19:59:59", False),  # summer: 21:59:59 in Berlin
        (NIGHT, "2026-07-15T20:00:00", True),
        (NIGHT, "2026-07-16T04:00:00", False),
        ("12:00-13:00", "2026-01-15T11:30:00", True),
        ("12:00-13:00", "2026-01-15T12:00:00", False),
        ("00:00-00:00", "2026-01-15T12:00:00", True),  # the whole day
        (None, "2026-01-15T12:00:00", True),
    ],
)
def test_the_window_is_open_at_another_hour_than_the_clock_on_the_wall_says(
    window: str | None, moment: str, expected: bool
) -> None:
    assert is_open(window, at(moment), BERLIN) is expected


def test_the_night_in_which_the_clock_changes_has_the_wrong_length() -> None:
    def hours(begin: str) -> float:
        start = at(begin)
        return sum(is_open(NIGHT, start + timedelta(minutes=n), BERLIN) for n in range(24 * 60)) / 60

    assert hours("2026-01-15T11:00:00") == 8
    assert hours("2026-03-28T11:00:00") == 7, "clocks go forward in that night"
    assert hours("2026-10-24T11:00:00") == 9, "clocks go back in that night"


def test_a_window_in_the_hour_that_comes_twice_is_open_once_only() -> None:
    moments = [at("2026-10-25T00:00:00") + timedelta(minutes=n) for n in range(180)]
    assert sum(is_open("02:00-03:00", moment, BERLIN) for moment in moments) == 120
    moments = [at("2026-03-29T00:00:00") + timedelta(minutes=n) for n in range(180)]
    assert sum(is_open("02:00-03:00", moment, BERLIN) for moment in moments) == 0, "that hour does not come at all"


def test_a_window_that_cannot_be_read_is_found_at_night(tmp_path: object) -> None:
    for wrong in ("22-06", "24:00-06:00", "22:00", "ten to six"):
        with pytest.raises(Invalid, match="retrieval_window"):
            load(tmp_path, retrieval_window=wrong)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="time_zone"):
        load(tmp_path, time_zone="Mars/Olympus")  # type: ignore[arg-type]
    assert Settings(retrieval_window=NIGHT, time_zone=BERLIN).retrieval_window == NIGHT
    with pytest.raises(Invalid):
        is_open(NIGHT, datetime(2026, 1, 1), BERLIN)
