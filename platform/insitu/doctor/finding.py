"""One finding: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, BAD = "ok", "note", "bad"


@dataclass(frozen=True)
class Finding:
    """What was found in one place: `state` is ok, note (something is less than it could be) or bad (it will not work)."""

    check: str
    state: str
    says: str
    remedy: str = ""
