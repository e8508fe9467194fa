"""What the routes of transfers and retrievals have in common: which rows are asked for, and how one is shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from insitu.database import Row


class Asked(BaseModel):
    """The rows that are asked for."""

    state: Literal["queued", "done", "failed", "cancelled"] | None = None
    node: str | None = Field(None, description="Name of a node.")
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0)


Page = Annotated[Asked, Query()]


def shown(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return row | {
        name: row[name].isoformat() if row[name] else None for name in ("requested_at", "next_attempt", "finished_at")
    }
