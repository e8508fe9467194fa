"""Quarantine for the site admin: list, inspect, release, discard."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from insitu.archive import quarantine
from insitu.audit import trail
from insitu.database import Row
from insitu.projects.permissions import Action, Principal, Resource, authorize

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/quarantine", tags=["quarantine"])
Manager = Annotated[Principal, Depends(requires(Action.ARCHIVE_MANAGE))]


def _shown(row: Row) -> dict[str, Any]:
    return {**row, "at": row["at"].isoformat()}


def _authorize(principal: Principal, entry: str = "") -> None:
    authorize(principal, Action.ARCHIVE_MANAGE, Resource(kind="quarantine", id=entry))


@router.get("")
def listed(
    principal: Manager,
    context: Ctx,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """Objects that could not be archived, the newest first, with the reason and who sent them."""
    _authorize(principal)
    with context.database.transaction() as connection:
        return {"entries": [_shown(row) for row in quarantine.listed(connection, limit=limit, offset=offset)]}


@router.get("/{entry}")
def inspect(entry: str, principal: Manager, context: Ctx) -> dict[str, Any]:
    """One entry, with what can be read of the object and tells nothing of a person."""
    _authorize(principal, entry)
    with context.database.transaction() as connection:
        row = quarantine.get(connection, entry)
        trail.record(connection, principal.name, "view", "quarantine", entry)
    return {**_shown(row), "facts": quarantine.facts(context.archive.blobs, row)}


@router.post("/{entry}/release")
def release(entry: str, principal: Manager, context: Ctx) -> dict[str, Any]:
    """Try the object again, as if it had just been sent; `outcome` says what became of it."""
    _authorize(principal, entry)
    stored = quarantine.release(context.archive, entry)
    with context.database.transaction() as connection:
        trail.record(
            connection, principal.name, "quarantine-release", "quarantine", entry,
            outcome="success" if stored.success else "failure", detail={"outcome": stored.outcome.value},
        )  # fmt: skip
    return {
        "outcome": stored.outcome.value,
        "success": stored.success,
        "reason": stored.reason,
        "sop_instance_uid": stored.sop_instance_uid,
    }


@router.delete("/{entry}")
def discard(
    entry: str,
    principal: Manager,
    context: Ctx,
    reason: Annotated[str, Query(min_length=3, max_length=500, description="Why; it stands in the audit trail.")],
) -> dict[str, Any]:
    """Remove the object for good."""
    _authorize(principal, entry)
    with context.database.transaction() as connection:
        row = quarantine.get(connection, entry)
        trail.record(
            connection, principal.name, "quarantine-discard", "quarantine", entry,
            detail={"reason": reason, "size": row["size"], "receipt": row["receipt"]},
        )  # fmt: skip
    return {"discarded": quarantine.remove(context.database, context.archive.blobs, entry)}
