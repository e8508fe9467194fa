"""Whether this process lives and can work, and its metrics.

Not here: the state of the whole platform (`insitu status`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from insitu.projects.permissions import Action, Principal, authorize

from .access import requires
from .context import Ctx

router = APIRouter(tags=["health"])
StatusReader = Annotated[Principal, Depends(requires(Action.PLATFORM_STATUS))]


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(context: Ctx) -> dict[str, str]:
    """The database answers too; else 503."""
    with context.database.transaction() as connection:
        connection.execute("SELECT 1")
    return {"status": "ok"}


@router.get("/metrics")
def metrics(request: Request, principal: StatusReader) -> Response:
    """Counters in Prometheus' text format."""
    authorize(principal, Action.PLATFORM_STATUS)
    registry: CollectorRegistry = request.app.state.metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
