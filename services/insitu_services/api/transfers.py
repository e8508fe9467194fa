"""Transfers: sending studies and series to other nodes, and what became of each object.

Not here: the register of nodes (nodes), the queue (insitu.nodes.transfers), the sending (insitu_services.dispatcher.transfers).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.nodes import transfers
from insitu.nodes.verdicts import in_words
from insitu.projects.permissions import Action, Principal, Resource, authorize, visible_projects

from .access import requires
from .context import Ctx
from .queues import Page, shown

router = APIRouter(prefix="/api/v1/transfers", tags=["transfers"])
Exporter = Annotated[Principal, Depends(requires(Action.IMAGE_EXPORT))]


class Request(BaseModel):
    """What to send where."""

    model_config = ConfigDict(extra="forbid")

    study: str | None = Field(None, description="Study Instance UID.")
    series: str | None = Field(None, description="Series Instance UID.")
    to: str = Field(description="Name of a node.")
    way: Literal["dimse", "stow"] | None = Field(None, description="By default DIMSE where the node has an address.")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.study is None and self.series is None:
            raise ValueError("name a study or a series")
        return self


def _object(row: Row) -> dict[str, Any]:
    waits = row["state"] == "waiting"
    return {
        **row,
        "status": in_words(row["status"]) or None,
        "next_attempt": row["next_attempt"].isoformat() if waits else None,
        "at": row["at"].isoformat() if row["at"] else None,
    }


def _visible(connection: Connection, principal: Principal, transfer: str) -> Row:
    row = transfers.get(connection, transfer, visible_projects(principal, Action.IMAGE_EXPORT))
    authorize(
        principal, Action.IMAGE_EXPORT, Resource(kind="transfer", id=transfer, projects=frozenset(row["projects"]))
    )
    return row


@router.post("", status_code=201)
def create(request: Request, principal: Exporter, context: Ctx) -> dict[str, Any]:
    """Queue a study or series for a node: of a study, the series that the caller may export."""
    projects = visible_projects(principal, Action.IMAGE_EXPORT)
    with context.database.transaction() as connection:
        made = transfers.create(
            connection, request.to, study=request.study, series=request.series, projects=projects,
            requested_by=principal.name, way=request.way,
        )  # fmt: skip
        row = _visible(connection, principal, str(made))
        kind, uid = ("series", request.series) if request.series else ("study", request.study)
        trail.record(
            connection, principal.name, "export", kind, uid or "",
            detail={"node": request.to, "transfer": made, "study": row["study_instance_uid"], "objects": row["waiting"]},
        )  # fmt: skip
    context.archive.wake()
    return shown(row)


@router.get("")
def listed(principal: Exporter, context: Ctx, page: Page) -> dict[str, Any]:
    """Transfers, the newest first, with the number of objects in each state."""
    projects = visible_projects(principal, Action.IMAGE_EXPORT)
    with context.database.transaction() as connection:
        rows = transfers.listed(connection, projects, **page.model_dump())
    return {"transfers": [shown(row) for row in rows]}


@router.get("/{transfer}")
def show(
    transfer: str,
    principal: Exporter,
    context: Ctx,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """One transfer, with what became of each object; failures first."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, transfer)
        objects = transfers.objects(connection, transfer, limit=limit, offset=offset)
    return {**shown(row), "objects": [_object(item) for item in objects]}


@router.post("/{transfer}/retry")
def retry(transfer: str, principal: Exporter, context: Ctx) -> dict[str, Any]:
    """Try failed and cancelled objects again, and waiting ones now."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, transfer)
        waiting = transfers.retry(connection, transfer)
        trail.record(
            connection, principal.name, "export-retry", "study", row["study_instance_uid"],
            detail={"node": row["node"], "transfer": transfer, "objects": waiting},
        )  # fmt: skip
    context.archive.wake()
    return {"id": transfer, "waiting": waiting}


@router.post("/{transfer}/cancel")
def cancel(transfer: str, principal: Exporter, context: Ctx) -> dict[str, Any]:
    """Send no further object."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, transfer)
        left = transfers.cancel(connection, transfer, principal.name)
        trail.record(
            connection, principal.name, "export-cancel", "study", row["study_instance_uid"],
            detail={"node": row["node"], "transfer": transfer, "objects": left},
        )  # fmt: skip
    return {"id": transfer, "cancelled": left}
