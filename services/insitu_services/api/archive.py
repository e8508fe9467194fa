"""Care of the archive: statistics, deletions, holds, retention and damage.

Not here: the deletion of DICOMweb (dicomweb), objects that wait for a person (quarantine, conflicts).
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query

from insitu.archive import deletion, holds, retention, scrub, statistics
from insitu.database import Row
from insitu.projects.permissions import SITE, Action, Principal, Resource, allowed, authorize, visible_projects

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/archive", tags=["archive"])
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]
Deleter = Annotated[Principal, Depends(requires(Action.IMAGE_DELETE))]
Manager = Annotated[Principal, Depends(requires(Action.ARCHIVE_MANAGE))]
Reason = Annotated[str, Body(embed=True, min_length=3, max_length=500, description="Why; without patient data.")]


def _shown(row: Row) -> dict[str, Any]:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}


def _authorize(principal: Principal, identifier: str = "") -> None:
    authorize(principal, Action.ARCHIVE_MANAGE, Resource(kind="archive", id=identifier))


@router.get("/statistics")
def show_statistics(principal: Reader, context: Ctx) -> dict[str, Any]:
    """How much the archive holds, by project, modality and month of arrival; of the caller's projects. Sizes in bytes.

    `archive` and `condition` (what waits for a person, damage, room on the disk) are for who manages the archive.
    """
    with context.database.transaction() as connection:
        found = statistics.read(connection, visible_projects(principal, Action.IMAGE_READ))
        manages = allowed(principal, Action.ARCHIVE_MANAGE, SITE)
        return {**found, "condition": statistics.condition(connection, context.settings) if manages else None}


@router.post("/deletions")
def delete(
    principal: Deleter,
    context: Ctx,
    reason: Annotated[str, Body(max_length=500, description="Why, 3 characters or more; without patient data.")] = "",
    study: Annotated[str | None, Body(description="Study Instance UID")] = None,
    series: Annotated[str | None, Body(description="Series Instance UID")] = None,
    instance: Annotated[str | None, Body(description="SOP Instance UID")] = None,
    dry_run: Annotated[bool, Body(description="Only say what would go.")] = False,
) -> dict[str, Any]:
    """Delete a study, a series or an instance for good, or say with `dry_run` what would go.

    Of a series that other projects hold too only the caller's projects lose it.
    """
    projects = visible_projects(principal, Action.IMAGE_DELETE)
    if dry_run:
        gone = deletion.preview(context.database, study=study, series=series, instance=instance, projects=projects)
    else:
        gone = deletion.delete(
            context.archive, principal.name, study=study, series=series, instance=instance, reason=reason,
            projects=projects,
        )  # fmt: skip
    return {
        "studies": gone.studies,
        "series": gone.series,
        "instances": gone.instances,
        "bytes": gone.bytes,
        "unlinked": gone.unlinked,
        "deleted": not dry_run,
    }


@router.get("/deletions")
def list_deletions(
    principal: Manager,
    context: Ctx,
    study: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """What was deleted, the newest first: when, by whom or which rule, why, and how much."""
    _authorize(principal)
    with context.database.transaction() as connection:
        rows = deletion.listed(connection, study=study, limit=limit, offset=offset)
    return {"deletions": [_shown(row) for row in rows]}


@router.get("/holds")
def list_holds(principal: Manager, context: Ctx) -> dict[str, Any]:
    """Studies that nobody may delete."""
    _authorize(principal)
    with context.database.transaction() as connection:
        return {"holds": [_shown(row) for row in holds.listed(connection)]}


@router.put("/holds/{study}")
def place_hold(study: str, principal: Manager, context: Ctx, reason: Reason) -> dict[str, Any]:
    """Hold a study: nobody may delete anything of it, nor any rule, until the hold is released."""
    _authorize(principal, study)
    with context.database.transaction() as connection:
        holds.place(connection, context.archive.blobs, study, reason, principal.name)
    return {"study_instance_uid": study, "held": True}


@router.delete("/holds/{study}")
def release_hold(
    study: str,
    principal: Manager,
    context: Ctx,
    reason: Annotated[str, Query(min_length=3, max_length=500, description="Why; it stands in the audit trail.")],
) -> dict[str, Any]:
    """Release a hold."""
    _authorize(principal, study)
    with context.database.transaction() as connection:
        holds.release(connection, context.archive.blobs, study, reason, principal.name)
    return {"study_instance_uid": study, "held": False}


@router.get("/retention")
def preview_retention(
    principal: Manager, context: Ctx, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> dict[str, Any]:
    """What the rules of the retention would delete now, and what keeps the others that are old enough. Changes nothing."""
    _authorize(principal)
    rules = context.settings.retention
    verdicts = list(islice(retention.due(context.database, rules), limit + 1))
    return {
        "rules": [rule.model_dump() for rule in rules],
        "series": [retention.shown(verdict) for verdict in verdicts[:limit]],
        "more": len(verdicts) > limit,
    }


@router.get("/damage")
def list_damage(principal: Manager, context: Ctx) -> dict[str, Any]:
    """Instances whose object is missing or has rotted; the same object sent again heals each."""
    _authorize(principal)
    with context.database.transaction() as connection:
        return {"damage": [_shown(row) for row in scrub.damaged(connection)]}
