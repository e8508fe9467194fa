"""How long a process that dies is kept waiting."""

from __future__ import annotations

from insitu_services.supervisor.backoff import HEALTHY, LONGEST, deaths_in_a_row, delay


def test_first_death_is_mended_at_once_and_later_ones_wait_longer() -> None:
    waits = [delay(deaths) for deaths in range(1, 12)]
    assert waits[0] < 1
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST


def test_healthy_life_forgives_earlier_deaths() -> None:
    assert deaths_in_a_row(7, HEALTHY - 1) == 8
    assert deaths_in_a_row(7, HEALTHY) == 1
