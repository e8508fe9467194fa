"""The state of a series in the archive: revision, completeness, projects; and completing it by hand.

Not here: its images and metadata (dicomweb), why a rule matched (rules).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from insitu.archive import completeness, index
from insitu.audit import trail
from insitu.database import Connection
from insitu.errors import NotFound
from insitu.projects.permissions import Action, Principal, Resource, authorize, visible_projects

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/series", tags=["series"])
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]
Storer = Annotated[Principal, Depends(requires(Action.IMAGE_STORE))]


def _state(connection: Connection, principal: Principal, uid: str) -> dict[str, Any]:
    projects = visible_projects(principal, Action.IMAGE_READ)
    series = index.find_series(connection, uid, projects)
    if series is None:
        raise NotFound("There is no such series", value=uid)
    row = connection.execute(
        "SELECT s.series_instance_uid, t.study_instance_uid, s.modality, s.state, s.revision, s.last_received_at,"
        " s.execution, s.superseded_by, (SELECT count(*) FROM instance i WHERE i.series = s.id) AS instances,"
        " (SELECT max(received_at) FROM instance i WHERE i.series = s.id) AS acknowledged_at,"
        " (SELECT array_agg(p.project ORDER BY p.project) FROM series_project p WHERE p.series = s.id"
        "  AND (%s OR p.project = ANY(%s))) AS projects"
        " FROM series s JOIN study t ON t.id = s.study WHERE s.id = %s",
        (projects is None, sorted(projects or ()), series["id"]),
    ).fetchone()
    if row is None:
        raise NotFound("There is no such series", value=uid)
    resource = Resource(kind="series", id=uid, projects=frozenset(row["projects"] or ()))
    authorize(principal, Action.IMAGE_READ, resource)
    return row


@router.get("/{series_instance_uid}")
def show(series_instance_uid: str, principal: Reader, context: Ctx) -> dict[str, Any]:
    """State of one series: receiving or complete, revision, number of instances, projects the caller may see."""
    with context.database.transaction() as connection:
        return _state(connection, principal, series_instance_uid)


@router.post("/{series_instance_uid}/complete")
def complete(series_instance_uid: str, principal: Storer, context: Ctx) -> dict[str, Any]:
    """Declare a series complete by hand, without waiting for its quiet time."""
    with context.database.transaction() as connection:
        row = _state(connection, principal, series_instance_uid)
        resource = Resource(kind="series", id=series_instance_uid, projects=frozenset(row["projects"] or ()))
        authorize(principal, Action.IMAGE_STORE, resource)
        completeness.complete(connection, series_instance_uid)
        trail.record(connection, principal.name, "complete", "series", series_instance_uid)
    context.archive.wake()
    return {"series_instance_uid": series_instance_uid, "state": row["state"]}
