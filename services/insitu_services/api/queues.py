"""What the routes of transfers and retrievals have in common: their query parameters, and how a row is shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query

from insitu.database import Row

State = Annotated[Literal["queued", "done", "failed", "cancelled"] | None, Query()]
NodeName = Annotated[str | None, Query(description="Name of a node.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0)]


def shown(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return row | {
        name: row[name].isoformat() if row[name] else None for name in ("requested_at", "next_attempt", "finished_at")
    }
