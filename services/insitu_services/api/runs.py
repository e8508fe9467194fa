"""Runs for people: list, look, start, cancel, read the log.

Not here: what the workflow engine and the steps ask (engine, gateway).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from insitu.archive import index
from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.errors import NotFound
from insitu.projects.permissions import Action, Principal, Resource, allowed, authorize, visible_projects
from insitu.runs import executions, listing, requests

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
Reader = Annotated[Principal, Depends(requires(Action.RUN_READ))]
Starter = Annotated[Principal, Depends(requires(Action.RUN_START))]
Canceller = Annotated[Principal, Depends(requires(Action.RUN_CANCEL))]


class RunRequest(BaseModel):
    """A request for a run on one series, or for a new execution of an earlier one (`again`)."""

    model_config = ConfigDict(extra="forbid")

    project: str | None = Field(None, description="Project the results belong to.")
    algorithm: str | None = Field(None, description="Name of an installed algorithm, or NAME@VERSION.")
    series: str | None = Field(None, description="Series Instance UID of the input.")
    parameters: dict[str, Any] = {}
    again: str | None = Field(None, description="Execution to repeat as a new execution.")
    force: bool = Field(False, description="Make a new execution even if the same run has been made before.")


def _visible(connection: Connection, principal: Principal, action: Action, execution: str) -> Row:
    """The execution; NotFound also where the caller may not see runs of its project."""
    row = executions.get(connection, execution)
    resource = Resource(kind="run", id=execution, projects=frozenset({row["project"]}))
    if not allowed(principal, Action.RUN_READ, resource):
        raise NotFound("There is no such run", value=execution, remedy="List the runs: insitu run list")
    authorize(principal, action, resource)
    return row


@router.get("")
def list_runs(
    principal: Reader,
    context: Ctx,
    state: str | None = None,
    series: Annotated[str | None, Query(description="Series Instance UID of an input")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Executions in the caller's projects, the newest first."""
    with context.database.transaction() as connection:
        projects = visible_projects(principal, Action.RUN_READ)
        return {
            "runs": listing.executions(connection, context.settings, projects, state=state, series=series, limit=limit)
        }


@router.post("", status_code=201)
def start(principal: Starter, context: Ctx, request: RunRequest) -> dict[str, Any]:
    """Ask for a run. The same run again is a no-op that names the earlier execution."""
    with context.database.transaction() as connection:
        if request.again is not None:
            _visible(connection, principal, Action.RUN_START, request.again)
            requested = requests.again(connection, request.again, requested_by=principal.name)
        else:
            wanted = requests.Wanted.of(request.project, request.algorithm, request.series, request.parameters)
            authorize(
                principal,
                Action.RUN_START,
                Resource(kind="project", id=wanted.project, projects=frozenset({wanted.project})),
            )
            if index.find_series(connection, wanted.series, visible_projects(principal, Action.IMAGE_READ)) is None:
                raise NotFound("There is no such series", value=wanted.series)
            requested = requests.for_series(connection, wanted, requested_by=principal.name, force=request.force)
        row = executions.get(connection, requested.execution)
        trail.record(
            connection, principal.name, "run", "run", requested.execution, row["project"],
            detail={"algorithm": row["algorithm"], "version": row["algorithm_version"], "created": requested.created},
        )  # fmt: skip
    context.archive.wake()
    return {"execution": requested.execution, "state": requested.state, "created": requested.created}


@router.get("/{execution}")
def show(execution: str, principal: Reader, context: Ctx) -> dict[str, Any]:
    """One execution with its history, waterfall by stage and results."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, Action.RUN_READ, execution)
        return listing.detail(connection, context.settings, row)


@router.get("/{execution}/log", response_class=PlainTextResponse)
def log(execution: str, principal: Reader, context: Ctx, step: str | None = None) -> str:
    """The logs of the steps, or of one of them."""
    with context.database.transaction() as connection:
        _visible(connection, principal, Action.RUN_READ, execution)
        trail.record(connection, principal.name, "view", "run-log", execution)
        return listing.log(connection, execution, step)


@router.post("/{execution}/cancel")
def cancel(execution: str, principal: Canceller, context: Ctx) -> dict[str, Any]:
    """Cancel an execution; one that already runs is ended by the engine within seconds."""
    with context.database.transaction() as connection:
        row = _visible(connection, principal, Action.RUN_CANCEL, execution)
        state = executions.ask_to_cancel(connection, execution, principal.name)
        trail.record(connection, principal.name, "cancel", "run", execution, row["project"])
    return {"execution": execution, "state": state}
