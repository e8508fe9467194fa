"""How long to wait before a process that died is started again. Pure."""

from __future__ import annotations

FIRST = 0.5  # seconds
LONGEST = 30.0  # seconds
HEALTHY = 60.0  # seconds of life after which a death counts as the first


def deaths_in_a_row(before: int, lived: float) -> int:
    """Number of deaths without a healthy life between them, the present one included."""
    return 1 if lived >= HEALTHY else before + 1


def delay(deaths: int) -> float:
    """Seconds to wait after so many deaths in a row: doubling, at most 30."""
    return float(min(LONGEST, FIRST * 2 ** min(deaths - 1, 10)))
