"""The off-peak window of retrievals: whether it is open at a moment, by the clock on the wall of the site.

Pure. Not here: what waits for it (retrievals).
"""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, time

from insitu.errors import Invalid


def is_open(window: str | None, at: datetime, time_zone: str) -> bool:
    """Whether the window is open. Where the clock is put back, its hours count twice; where it is put forward, the missing one not.

    Parameters
    ----------
    window : str or None
        `HH:MM-HH:MM` in local time, the end not included; over midnight where the end is not later than the begin (equal: the
        whole day). None is always open.
    at : datetime
        With a time zone, any.
    time_zone : str
        Of the site, for example `Europe/Berlin`.

    Raises
    ------
    Invalid
        The moment has no time zone.
    """
    if window is None:
        return True
    if at.tzinfo is None:
        raise Invalid("A moment without a time zone tells no local time", value=at.isoformat())
    begin, end = (time.fromisoformat(part) for part in window.split("-"))
    now = at.astimezone(UTC if time_zone == "UTC" else zoneinfo.ZoneInfo(time_zone)).time().replace(fold=0)
    if begin < end:
        return begin <= now < end
    return now >= begin or now < end
