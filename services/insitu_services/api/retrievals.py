"""Retrievals: searching other nodes, and fetching studies from them into a project.

Not here: the register of nodes (nodes), the queue (insitu.nodes.retrievals), the fetching (insitu_services.dispatcher.retrievals).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path
from fastapi import Query as Parameter
from pydantic import BaseModel, ConfigDict, Field

from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.errors import Forbidden
from insitu.nodes import registry, retrievals
from insitu.projects.permissions import Action, Principal, Resource, authorize, visible_projects
from insitu_services.peers import finding
from insitu_services.peers.finding import Query

from .access import requires
from .context import Ctx
from .queues import Page, shown

router = APIRouter(prefix="/api/v1", tags=["retrievals"])
Retriever = Annotated[Principal, Depends(requires(Action.IMAGE_RETRIEVE))]
UID = r"^[0-9.]{1,64}$"


class Request(BaseModel):
    """What to fetch, where from and whereto."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    node: str = Field(alias="from", description="Name of a node.")
    study: str = Field(pattern=UID, description="Study Instance UID.")
    series: str | None = Field(None, pattern=UID, description="Series Instance UID, for one series alone.")
    project: str | None = Field(None, description="By default the site's default project.")
    off_peak: bool = Field(False, description="Wait for the site's retrieval window.")
    way: Literal["get", "move", "wado"] | None = None


def _visible(connection: Connection, principal: Principal, retrieval: str) -> Row:
    row = retrievals.get(connection, retrieval, visible_projects(principal, Action.IMAGE_RETRIEVE))
    resource = Resource(kind="retrieval", id=retrieval, projects=frozenset({row["project"]}))
    authorize(principal, Action.IMAGE_RETRIEVE, resource)
    return row


@router.post("/nodes/{node}/search")
def search(
    node: Annotated[str, Path()],
    query: Query,
    principal: Retriever,
    context: Ctx,
    by: Annotated[
        Literal["dimse", "web"] | None, Parameter(description="By default DIMSE where it has an address.")
    ] = None,
) -> dict[str, Any]:
    """Studies of another node, at most 500: by patient, study, accession number, dates, modality. It is audited."""
    if visible_projects(principal, Action.IMAGE_RETRIEVE) == frozenset():
        raise Forbidden(f"{principal.name} may not search other nodes")
    with context.database.transaction() as connection:
        described = registry.find(connection, node)
        trail.record(
            connection, principal.name, "node-search", "node", node, detail={"keys": query.named, "study": query.study}
        )
    by_web = by == "web" or (by is None and not described.callable_by_dimse)
    found = finding.studies(described, context.settings, query, by_web=by_web)
    return {"studies": found, "complete": len(found) < finding.MOST_STUDIES}


@router.post("/retrievals", status_code=201)
def create(request: Request, principal: Retriever, context: Ctx) -> dict[str, Any]:
    """Queue a study or series to be fetched."""
    project = request.project or context.settings.default_project
    resource = Resource(kind="project", id=project, projects=frozenset({project}))
    authorize(principal, Action.IMAGE_RETRIEVE, resource)
    authorize(principal, Action.IMAGE_STORE, resource)
    with context.database.transaction() as connection:
        made = retrievals.create(
            connection, request.node, study=request.study, series=request.series, project=project,
            off_peak=request.off_peak, requested_by=principal.name, way=request.way,
        )  # fmt: skip
        trail.record(
            connection, principal.name, "retrieve", "series" if request.series else "study",
            request.series or request.study, project, detail={"node": request.node, "retrieval": made, "study": request.study},
        )  # fmt: skip
        row = _visible(connection, principal, made)
    context.archive.wake()
    return shown(row)


@router.get("/retrievals")
def listed(principal: Retriever, context: Ctx, page: Page) -> dict[str, Any]:
    """Retrievals into the caller's projects, the newest first."""
    projects = visible_projects(principal, Action.IMAGE_RETRIEVE)
    with context.database.transaction() as connection:
        rows = retrievals.listed(connection, projects, **page.model_dump())
    return {"retrievals": [shown(row) for row in rows], "window": context.settings.retrieval_window}


@router.get("/retrievals/{retrieval}")
def show(retrieval: str, principal: Retriever, context: Ctx) -> dict[str, Any]:
    """One retrieval: how many of the objects that the node has are here."""
    with context.database.transaction() as connection:
        return shown(_visible(connection, principal, retrieval))


@router.post("/retrievals/{retrieval}/retry")
def retry(retrieval: str, principal: Retriever, context: Ctx) -> dict[str, Any]:
    """Try a failed or cancelled retrieval again, or a waiting one now."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, retrieval)
        retrievals.retry(connection, retrieval)
        trail.record(
            connection, principal.name, "retrieve-retry", "study", row["study_instance_uid"], row["project"],
            detail={"node": row["node"], "retrieval": retrieval},
        )  # fmt: skip
        row = _visible(connection, principal, retrieval)
    context.archive.wake()
    return shown(row)


@router.post("/retrievals/{retrieval}/cancel")
def cancel(retrieval: str, principal: Retriever, context: Ctx) -> dict[str, Any]:
    """Fetch no further object; what is here stays."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, retrieval)
        retrievals.cancel(connection, retrieval, principal.name)
        trail.record(
            connection, principal.name, "retrieve-cancel", "study", row["study_instance_uid"], row["project"],
            detail={"node": row["node"], "retrieval": retrieval},
        )  # fmt: skip
        return shown(_visible(connection, principal, retrieval))
