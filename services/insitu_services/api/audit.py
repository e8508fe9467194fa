"""The audit trail for those who may read it: search and verification.

Not here: writing it; each route does that in the transaction of the deed.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from insitu.audit import seal, trail
from insitu.projects.permissions import Action, Principal, authorize
from insitu_services.anchor import anchor

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])
Auditor = Annotated[Principal, Depends(requires(Action.AUDIT_READ))]


@router.get("")
def list_events(
    principal: Auditor,
    context: Ctx,
    actor: str | None = None,
    action: str | None = None,
    kind: str | None = None,
    resource: str | None = None,
    project: str | None = None,
    patient: Annotated[str | None, Query(description="Patient ID: events about this patient's images")] = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    before: Annotated[int | None, Query(description="Only events with a smaller id: the next page")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> dict[str, Any]:
    """Events, the newest first. Looking is itself an event."""
    authorize(principal, Action.AUDIT_READ)
    asked = {"actor": actor, "action": action, "kind": kind, "resource": resource, "project": project}
    with context.database.transaction() as connection:
        found = trail.events(
            connection, actor=actor, action=action, kind=kind, resource=resource, project=project, patient=patient,
            since=since, until=until, before=before, limit=limit,
        )  # fmt: skip
        detail = {name: value for name, value in asked.items() if value is not None}
        trail.record(
            connection, principal.name, "view", "audit", detail=detail | ({"by_patient": True} if patient else {})
        )
    return {"events": found}


@router.get("/verification")
def verify(principal: Auditor, context: Ctx) -> dict[str, Any]:
    """Whether every event still is what was sealed, and none is missing."""
    authorize(principal, Action.AUDIT_READ)
    with context.database.transaction() as connection:
        verification = seal.verify(connection, anchor(context.settings, context.archive.blobs))
        trail.record(
            connection, principal.name, "verify", "audit", outcome="success" if verification.ok else "failure",
            detail={"sequence": verification.sequence},
        )  # fmt: skip
    return verification.model_dump()
