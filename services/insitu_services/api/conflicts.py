"""Conflicts for the site admin: other objects under known SOP Instance UIDs; list, inspect, resolve."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query

from insitu.archive import conflicts
from insitu.audit import trail
from insitu.projects.permissions import Action, Principal, Resource, authorize

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/conflicts", tags=["conflicts"])
Manager = Annotated[Principal, Depends(requires(Action.ARCHIVE_MANAGE))]


def _authorize(principal: Principal, conflict: str = "") -> None:
    authorize(principal, Action.ARCHIVE_MANAGE, Resource(kind="conflict", id=conflict))


@router.get("")
def listed(
    principal: Manager,
    context: Ctx,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """Conflicts, the newest first, and what was decided of earlier ones."""
    _authorize(principal)
    with context.database.transaction() as connection:
        rows = conflicts.listed(connection, limit=limit, offset=offset)
        decided = conflicts.resolved(connection)
    return {
        "conflicts": [conflicts.shown(row) for row in rows],
        "resolved": [{**row, "at": row["at"].isoformat()} for row in decided],
    }


@router.get("/{conflict}")
def inspect(conflict: str, principal: Manager, context: Ctx) -> dict[str, Any]:
    """One conflict, and which attributes of the two objects differ; not their values."""
    _authorize(principal, conflict)
    with context.database.transaction() as connection:
        row = conflicts.get(connection, conflict)
        trail.record(
            connection, principal.name, "view", "conflict", conflict, detail={"study": row["study_instance_uid"]}
        )
    return {**conflicts.shown(row), "differences": conflicts.differences(context.archive.blobs, row)}


@router.post("/{conflict}/resolve")
def resolve(
    conflict: str,
    principal: Manager,
    context: Ctx,
    resolution: Annotated[Literal["keep", "replace"], Body(description="Keep the first object, or replace it.")],
    reason: Annotated[str, Body(min_length=3, max_length=500, description="Why; without patient data.")],
) -> dict[str, Any]:
    """Decide which of the two objects counts. The other one goes for good."""
    _authorize(principal, conflict)
    conflicts.resolve(context.archive, conflict, resolution, actor=principal.name, reason=reason)
    return {"conflict": conflict, "resolution": resolution}
