"""What the workflow engine asks the platform: prepare, stage, conclude an execution. Idempotent, so that a repeat only re-attaches.

Not here: what the steps of the job ask (gateway).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import BaseModel, ConfigDict

from insitu.database import Connection, Row
from insitu.errors import Invalid, NotFound
from insitu.projects.permissions import Action, Principal, Resource, authorize
from insitu.runs import executions, preparation
from insitu.runs.launch.specification import JobOutcome, JobSpecification

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/engine/v1/executions/{execution}", tags=["workflow engine"])
EnginePrincipal = Annotated[Principal, Depends(requires(Action.ENGINE_CALL))]


class Conclusion(BaseModel):
    """The outcome of a job with the logs of its steps."""

    model_config = ConfigDict(extra="forbid")

    outcome: JobOutcome
    logs: dict[str, str] = {}


def _execution(connection: Connection, principal: Principal, execution: str) -> Row:
    authorize(principal, Action.ENGINE_CALL, Resource(kind="run", id=execution))
    return executions.get(connection, execution, lock=True)


@router.post("/prepare")
def prepare(execution: str, principal: EnginePrincipal, context: Ctx) -> JobSpecification:
    """The specification of the job of an execution; the same at every call.

    An execution that cannot be prepared (its package is gone or damaged) fails with the reason.
    """
    try:
        with context.database.transaction() as connection:
            row = _execution(connection, principal, execution)
            return preparation.specification(connection, context.settings, row)
    except (Invalid, NotFound) as error:
        with context.database.transaction() as connection:
            executions.finish(connection, execution, "failed", failure="environment-missing", reason=str(error))
        raise


@router.post("/stage")
def stage(
    execution: str,
    principal: EnginePrincipal,
    context: Ctx,
    stage: Annotated[str | None, Body()] = None,
    detail: Annotated[dict[str, Any] | None, Body()] = None,
) -> dict[str, Any]:
    """A sign of life, with the stage that was reached if any; answers whether somebody asked to cancel."""
    with context.database.transaction() as connection:
        row = _execution(connection, principal, execution)
        if stage and row["state"] in executions.ACTIVE:
            executions.record(connection, execution, stage[:40], detail)
        return {"cancel_asked": executions.heartbeat(connection, execution), "state": row["state"]}


@router.post("/conclude")
def conclude(execution: str, principal: EnginePrincipal, context: Ctx, conclusion: Conclusion) -> dict[str, Any]:
    """End an execution with the outcome of its job; a repeat changes nothing. Answers the state it is in."""
    with context.database.transaction() as connection:
        _execution(connection, principal, execution)
        preparation.conclude(connection, execution, conclusion.outcome, conclusion.logs)
        return {"state": executions.get(connection, execution)["state"]}
